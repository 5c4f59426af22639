"""When Triton computes: kernels are tried before they are used, and PyTorch takes over with one warning."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import pytest
import torch

from modeling_tgdt import similarity_tgdt as support
from modeling_tgdt.kernels import triton_check as kernel_check

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
GPU = torch.device("cuda", 0)
# The package takes 1 GB, so `make test` does not install it; docs/galleries.md says how to run these tests.
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")


@pytest.fixture(autouse=True)
def forget(monkeypatch) -> None:
    """Ask anew in every test, and later too."""
    for name in ("passes", "_is_capable"):
        monkeypatch.setattr(support, name, cache(getattr(support, name).__wrapped__))


@pytest.fixture
def ampere(monkeypatch) -> None:
    """Look like a machine with such a GPU."""
    monkeypatch.delenv("TGDT_TRITON", raising=False)
    monkeypatch.setattr(support, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.int8])
def test_the_kernels_pass(dtype: torch.dtype) -> None:
    assert kernel_check._check_maxsim(DEVICE, dtype)
    if dtype.is_floating_point:
        assert support._check_similarity(DEVICE, dtype)


@needs_triton
@pytest.mark.parametrize("name", ["best_regions", "image_gradients", "word_gradients"])
def test_a_wrong_result_is_noticed(name: str, monkeypatch) -> None:
    from modeling_tgdt import triton_similarity_tgdt

    right = getattr(triton_similarity_tgdt, name)

    def wrong(*arguments: torch.Tensor) -> torch.Tensor:
        found = right(*arguments)
        found[0, 0] += 1
        return found

    monkeypatch.setattr(triton_similarity_tgdt, name, wrong)
    assert not support._check_similarity(DEVICE, torch.float32)


@needs_triton
def test_a_wrong_score_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(
        "modeling_tgdt.kernels.triton_maxsim.triton_maxsim", lambda *sides: torch.zeros(3, device=DEVICE)
    )
    assert not kernel_check._check_maxsim(DEVICE, torch.int8)


@pytest.mark.parametrize(
    ("check", "reason"), [(lambda *_: False, "results are wrong"), (lambda *_: 1 / 0, "ZeroDivisionError")]
)
def test_a_failure_is_said_once_and_pytorch_computes(check, reason, ampere, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(support.logger, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(kernel_check, "_check_maxsim", check)
    monkeypatch.setattr(support, "_check_similarity", check)
    for _ in range(2):
        assert not kernel_check.triton_scores(GPU, torch.int8)
    assert len(said) == 1 and reason in said[0] and "int8" in said[0] and "TGDT_TRITON=0" in said[0]
    assert not support.triton_trains(GPU, torch.float16)


def test_where_triton_is_asked(ampere, monkeypatch) -> None:
    monkeypatch.setattr(kernel_check, "_check_maxsim", lambda *_: True)
    monkeypatch.setattr(support, "_check_similarity", lambda *_: True)
    assert kernel_check.triton_scores(GPU, torch.int8) and support.triton_trains(GPU, torch.bfloat16)
    assert not support.triton_trains(GPU, torch.float64)
    for device in ("cpu", "mps", "meta"):
        assert not kernel_check.triton_scores(torch.device(device), torch.int8)


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (torch.cuda, "get_device_capability", lambda device: (7, 5)),
        (torch.version, "hip", "6.4"),
        (support, "find_spec", lambda name: None),
        (torch.compiler, "is_compiling", lambda: True),
    ],
    ids=["Turing", "ROCm", "no-package", "compiling"],
)
def test_where_triton_is_not_asked(target, name, value, ampere, monkeypatch) -> None:
    monkeypatch.setattr(support, "passes", lambda *_: True)
    assert kernel_check.triton_scores(GPU, torch.int8)
    monkeypatch.setattr(target, name, value)
    support._is_capable.cache_clear()
    assert not kernel_check.triton_scores(GPU, torch.int8) and not support.triton_trains(GPU, torch.float32)


def test_the_environment_turns_it_off(ampere, monkeypatch) -> None:
    monkeypatch.setattr(support, "passes", lambda *_: True)
    monkeypatch.setenv("TGDT_TRITON", "0")
    assert not kernel_check.triton_scores(GPU, torch.int8)
