# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Whether the Triton kernels work on a device: each is tried once per dtype, on numbers whose results are exact.

PyTorch does the work where they do not: on other devices than NVIDIA's of compute capability 8.0 and newer, without
the package triton or the C compiler that it needs, and where the environment says `TGDT_TRITON=0`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from math import prod

import torch
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)
DIM = 24


def triton_trains(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether the kernels of `triton_similarity_tgdt` work for tokens of `dtype` there."""
    known = dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and may_use_triton(device) and passes(_check_similarity, device, dtype)


def may_use_triton(device: torch.device) -> bool:
    if device.type != "cuda" or torch.compiler.is_compiling() or os.environ.get("TGDT_TRITON") == "0":
        return False
    return _is_capable(device)


@cache
def _is_capable(device: torch.device) -> bool:
    nvidia = torch.version.hip is None and find_spec("triton") is not None
    return nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def passes(check: Callable[[torch.device, torch.dtype], bool], device: torch.device, dtype: torch.dtype) -> bool:
    try:
        reason = "" if check(device, dtype) else "their results are wrong"
    except Exception as error:  # whatever a compiler that was never seen here raises
        reason = f"{type(error).__name__}: {error}"
    if reason:
        logger.warning(
            "The Triton kernels do not work for %s on %s, PyTorch computes instead: %s. TGDT_TRITON=0 in the "
            "environment turns them off without this warning.",
            dtype,
            device,
            reason,
        )
    return not reason


def integers(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers from -5 to 5, whose products and sums are exact in every dtype."""
    return (torch.arange(prod(shape), device=device) * 7 % 11 - 5).view(shape).to(dtype)


def _check_similarity(device: torch.device, dtype: torch.dtype) -> bool:
    from .triton_similarity_tgdt import best_regions, image_gradients, word_gradients

    images, words = (integers(*shape, DIM, device=device, dtype=dtype) for shape in ((3, 20), (10,)))
    mask = torch.arange(20, device=device) < torch.tensor([[20], [7], [0]], device=device)
    winners = torch.zeros(3, 10, dtype=torch.uint8, device=device)
    best = best_regions(images, words, mask, winners)
    dots = (images.double() @ words.double().T).masked_fill(~mask[..., None], 0)
    won = winners.long()[:, None]
    found = [best.double(), dots.gather(1, won)[:, 0]]
    expected = [dots.masked_fill(~mask[..., None], -torch.inf).amax(1).masked_fill(~mask.any(1)[:, None], 0)] * 2

    grad = torch.tensor([[1.0, -1.0], [2.0, 1.0], [0.0, 0.0]], dtype=torch.float32, device=device)
    weights = torch.ones(2, 5, dtype=torch.float32, device=device)
    routed = torch.zeros_like(dots).scatter_(1, won, grad.double().repeat_interleave(5, 1)[:, None])
    found.append(image_gradients(grad, weights, winners, words, images).double())
    found.append(word_gradients(grad, weights, winners, images).double())
    expected += [routed @ words.double(), torch.einsum("brn,brd->nd", routed, images.double())]
    return all(map(torch.equal, found, expected))
