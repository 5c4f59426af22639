"""Token similarity and its gradients by Triton, interpreted where there is no CUDA device, against PyTorch in float64.

That the kernels also compile for GPUs is tested where there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from modeling_tgdt import similarity_tgdt, token_similarity

from .test_similarity_tgdt import random_tokens

pytest.importorskip("triton", reason="needs the package triton")
from modeling_tgdt import triton_similarity_tgdt  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ERRORS = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest value
SHAPES = [
    {"images": 3, "texts": 4, "regions": 5, "words": 6, "dim": 7},
    {"images": 2, "texts": 9, "regions": 40, "words": 17, "dim": 70},  # two tiles of words and of values
    {"images": 2, "texts": 1, "regions": 300, "words": 3, "dim": 20},  # five tiles of regions, winners above 255
    {"images": 2, "texts": 2, "regions": 0, "words": 3, "dim": 4},
    {"images": 2, "texts": 2, "regions": 3, "words": 0, "dim": 4},
    {"images": 0, "texts": 2, "regions": 3, "words": 2, "dim": 4},
]


@pytest.fixture(autouse=True)
def triton(monkeypatch) -> None:
    """Compute by Triton in every dtype but float64, that of the twin."""
    monkeypatch.setattr(similarity_tgdt, "triton_trains", lambda device, dtype: dtype != torch.float64)


def scores_and_gradients(images, texts, image_mask, text_mask, **options) -> list[torch.Tensor]:
    leaves = [part.to(DEVICE, copy=True).requires_grad_() for part in (images, texts)]
    scores = token_similarity(*leaves, image_mask.to(DEVICE), text_mask.to(DEVICE), **options)
    weights = torch.arange(scores.numel(), device=DEVICE).view_as(scores).to(scores.dtype) % 5 - 2
    return [scores.detach(), *torch.autograd.grad((scores * weights).sum(), leaves)]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape.values())))
def test_values_and_gradients_equal_pytorch(shape, dtype, reduction) -> None:
    images, texts, image_mask, text_mask = random_tokens(7, **shape)
    image_mask[:1], text_mask[:1] = False, False
    rounded = images.to(dtype), texts.to(dtype)
    found = scores_and_gradients(*rounded, image_mask, text_mask, reduction=reduction, scale=2.0)
    assert [part.dtype for part in found] == [torch.float32, dtype, dtype]
    twin = scores_and_gradients(*(p.double() for p in rounded), image_mask, text_mask, reduction=reduction, scale=2.0)
    for ours, expected in zip(found, twin, strict=True):
        error = ERRORS[ours.dtype] * max([1.0, *expected.abs().flatten().tolist()])
        torch.testing.assert_close(ours.double(), expected, atol=error, rtol=0)


def test_layout_and_autocast_change_no_bit() -> None:
    images, texts, image_mask, text_mask = random_tokens(1, images=3, texts=3, dtype=torch.float32)
    expected = scores_and_gradients(images, texts, image_mask, text_mask)
    turned = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in (images, texts, image_mask, text_mask)]
    with torch.autocast(DEVICE, torch.bfloat16):
        found = scores_and_gradients(*turned)
    for ours, known in zip(found, expected, strict=True):
        assert torch.equal(ours, known)


def test_nan_stays_visible() -> None:
    images, texts, image_mask, text_mask = random_tokens(2, dtype=torch.float32)
    image_mask[1, 2] = True
    image_mask[2] = torch.tensor([True, False, True, True, True])
    images[1, 2, 0] = torch.nan
    images[2, 1, 0] = torch.nan  # of a region that is padding
    scores = scores_and_gradients(images, texts, image_mask, text_mask)[0]
    assert scores.isnan().any(1).tolist() == [False, True, False]


def test_float32_uses_tf32_only_where_the_user_allowed_it() -> None:
    tokens = torch.zeros(1)
    settings = torch.backends.cuda.matmul
    assert triton_similarity_tgdt._product_options(tokens)["PRECISION"] == "ieee"
    before = settings.allow_tf32
    settings.allow_tf32 = True
    try:
        assert triton_similarity_tgdt._product_options(tokens)["PRECISION"] == "tf32"
    finally:
        settings.allow_tf32 = before


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_gpus(capability: int, tmp_path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    found = subprocess.run(
        [sys.executable, "-m", "tests.modeling_tgdt.triton_compiler", str(capability)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    products = dict(line.split() for line in found.stdout.splitlines())
    tensor_cores = "wgmma" if capability == 90 else "mma"
    assert products == {
        "float32": "fma",
        "tf32": tensor_cores,
        "float16": tensor_cores,
        "bfloat16": tensor_cores,
        "int8": tensor_cores,
    }
