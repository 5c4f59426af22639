"""A recipe's bf16 on processors with and without the instructions."""

import pytest
import torch

from trainer.training.precision import native_precision

CASES = [
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
    ({"architecture": "x86_64"}, False),
    ({"architecture": "x86_64", "avx512_bf16": True}, True),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
    ({"architecture": "aarch64"}, True),
]


@pytest.mark.parametrize(("capabilities", "kept"), CASES)
def test_bf16_stays_where_the_processor_has_it(monkeypatch, capabilities, kept, caplog) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert native_precision({"bf16": True, "max_steps": 3}) == {"bf16": kept, "max_steps": 3}
    assert ("float32" in caplog.text) != kept
    assert native_precision({"max_steps": 3}) == {"max_steps": 3}


def test_an_accelerator_decides_for_itself(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CASES[0][0])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert native_precision({"bf16": True})["bf16"]
