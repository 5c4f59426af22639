# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Token similarity of all pairs and its gradients in Triton: no product of a region with a word is ever written.

N is the number of words of all captions, padding included: word n belongs to caption n // W. Sums are in float32 and
in a fixed order, so that the same inputs give the same bits.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

try:  # guarded, or transformers would ask everybody who loads this code from the Hub to install Triton
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("These kernels need the package triton; PyTorch does the same without it.") from error

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on a CPU, where Triton cannot multiply bfloat16
_WORDS = 64  # of a tile
_VALUES = 64  # of a token, in a tile of gradients


def factor_dtype(tokens: Tensor) -> tl.dtype:
    """Return the dtype in which tokens are multiplied."""
    if tokens.dtype == torch.bfloat16:
        return tl.float32 if _INTERPRETED else tl.bfloat16
    return {torch.float16: tl.float16, torch.int8: tl.int8}.get(tokens.dtype, tl.float32)


def tile_size(count: int) -> int:
    """Return the power of two between 16, the least that tensor cores take, and 64 that holds `count` best."""
    return min(max(triton.next_power_of_2(count), 16), 64)


def best_regions(images: Tensor, words: Tensor, mask: Tensor, winners: Tensor) -> Tensor:
    """Find for every image and word the region with the largest dot product.

    Args:
        images: (B, R, D) in float32, float16 or bfloat16, as `words`.
        words: (N, D).
        mask: Boolean (B, R).
        winners: (B, N), filled with the index of the region; 0 for images without regions.

    Returns:
        The products (B, N) float32; 0 for images without regions.
    """
    (count, regions, dim), total = images.shape, len(words)
    best = torch.empty(count, total, dtype=torch.float32, device=images.device)
    if best.numel():
        grid = (triton.cdiv(total, _WORDS) * count,)
        options = {"DIM": dim, "REGIONS": tile_size(regions), "WORDS": _WORDS, "STEP": 128 // images.element_size()}
        options |= _product_options(images)
        images, words, mask = images.contiguous(), words.contiguous(), mask.contiguous().view(torch.uint8)
        with torch.cuda.device_of(images):
            _best_kernel[grid](images, words, mask, best, winners, regions, total, **options)
    return best


def image_gradients(grad: Tensor, weights: Tensor, winners: Tensor, words: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of the images (B, R, D): each word's, times what it counts, goes to the region that won.

    Args:
        grad: Of the similarities, (B, Bt) float32; 0 for images without regions.
        weights: Of each word, (Bt, W) float32.
        winners: (B, N).
        words: (N, D).
        images: (B, R, D), for its shape and dtype.
    """
    gradient = torch.zeros_like(images, memory_format=torch.contiguous_format)
    (count, regions, dim), total = images.shape, len(words)
    if gradient.numel() and total:
        rows = tile_size(regions)
        grid = (count, triton.cdiv(regions, rows), triton.cdiv(dim, _VALUES))
        options = {"PER_TEXT": weights.shape[1], "DIM": dim, "REGIONS": rows, "WORDS": _WORDS, "VALUES": _VALUES}
        options |= _product_options(words)
        arrays = [part.contiguous() for part in (grad, weights, winners, words)]
        with torch.cuda.device_of(gradient):
            _image_kernel[grid](*arrays, gradient, regions, total, **options)
    return gradient


def word_gradients(grad: Tensor, weights: Tensor, winners: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of the words (N, D): the sum of the regions that won, times what the word counts there.

    Args:
        grad: As in [`image_gradients`].
        weights: As there.
        winners: As there.
        images: (B, R, D).
    """
    (count, regions, dim), total = images.shape, weights.numel()
    gradient = torch.zeros(total, dim, dtype=images.dtype, device=images.device)
    if gradient.numel() and images.numel():
        grid = (triton.cdiv(total, _WORDS), triton.cdiv(dim, _VALUES))
        arrays = [part.contiguous() for part in (grad, weights, winners, images)]
        options = {"PER_TEXT": weights.shape[1], "DIM": dim, "WORDS": _WORDS, "VALUES": _VALUES}
        with torch.cuda.device_of(gradient):
            _word_kernel[grid](*arrays, gradient, count, regions, total, **options)
    return gradient


def _product_options(tokens: Tensor) -> dict[str, Any]:
    """How tiles are multiplied; float32 without TF32, the more registers, unless the user allowed TF32 to PyTorch."""
    settings, compute = torch.backends.cuda.matmul, factor_dtype(tokens)
    precise = getattr(settings, "fp32_precision", None)  # PyTorch 2.9; asking allow_tf32 there can raise
    fast = precise == "tf32" if precise is not None else settings.allow_tf32
    warps = 8 if compute == tl.float32 and not fast else 4
    return {"COMPUTE": compute, "PRECISION": "tf32" if fast else "ieee", "num_warps": warps}


@triton.jit
def _best_kernel(
    images,
    words,
    mask,
    best,
    winners,
    regions,
    total,
    DIM: tl.constexpr,
    REGIONS: tl.constexpr,
    WORDS: tl.constexpr,
    STEP: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(total, WORDS)  # one program scores one tile of words against one image
    image = (tl.program_id(0) // tiles).to(tl.int64)
    word_ids = (tl.program_id(0) % tiles).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    broken = tl.zeros((WORDS,), tl.float32)  # a maximum would hide NaN
    highest = tl.full((WORDS,), float("-inf"), tl.float32)
    winner = tl.zeros((WORDS,), tl.int32)
    for region in range(0, regions, REGIONS):
        region_ids = region + tl.arange(0, REGIONS)
        row = image * regions + region_ids
        real = tl.load(mask + row, mask=region_ids < regions, other=0) != 0
        dots = tl.zeros((WORDS, REGIONS), tl.float32)  # summed over STEP numbers of the width at a time
        for start in range(0, DIM, STEP):
            columns = start + tl.arange(0, STEP)
            inside = columns < DIM
            a = tl.load(
                words + word_ids[:, None] * DIM + columns[None, :],
                mask=(word_ids < total)[:, None] & inside[None, :],
                other=0,
            )
            b = tl.load(images + row[None, :] * DIM + columns[:, None], mask=real[None, :] & inside[:, None], other=0)
            dots = tl.dot(a.to(COMPUTE), b.to(COMPUTE), dots, input_precision=PRECISION)
        broken += tl.sum(tl.where(dots != dots, dots, 0.0), axis=1)
        dots = tl.where(real[None, :], dots, float("-inf"))  # padding never wins
        values, indices = tl.max(dots, axis=1, return_indices=True)
        winner = tl.where(values > highest, region + indices, winner)
        highest = tl.maximum(highest, values)
    highest = tl.where(highest > float("-inf"), highest, 0.0) + broken  # 0 where the image has no region
    tl.store(best + image * total + word_ids, highest, mask=word_ids < total)
    tl.store(winners + image * total + word_ids, winner.to(winners.dtype.element_ty), mask=word_ids < total)


@triton.jit
def _image_kernel(
    grad,
    weights,
    winners,
    words,
    result,
    regions,
    total,
    PER_TEXT: tl.constexpr,
    DIM: tl.constexpr,
    REGIONS: tl.constexpr,
    WORDS: tl.constexpr,
    VALUES: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    region = tl.program_id(1) * REGIONS + tl.arange(0, REGIONS)
    columns = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    texts = total // PER_TEXT
    gradient = tl.zeros((REGIONS, VALUES), tl.float32)  # of a tile of one image's regions, a part of the width
    for first in range(0, total, WORDS):
        word_ids = first + tl.arange(0, WORDS)
        spoken = word_ids < total
        winner = tl.load(winners + image * total + word_ids, mask=spoken, other=0).to(tl.int32)
        share = tl.load(grad + image * texts + word_ids // PER_TEXT, mask=spoken, other=0)
        share *= tl.load(weights + word_ids, mask=spoken, other=0)
        routed = tl.where(winner[None, :] == region[:, None], share[None, :], 0.0)
        rows = tl.load(
            words + word_ids.to(tl.int64)[:, None] * DIM + columns[None, :],
            mask=spoken[:, None] & (columns < DIM)[None, :],
            other=0,
        )
        gradient = tl.dot(routed.to(COMPUTE), rows.to(COMPUTE), gradient, input_precision=PRECISION)
    tl.store(
        result + (image * regions + region)[:, None] * DIM + columns[None, :],
        gradient.to(result.dtype.element_ty),
        mask=(region < regions)[:, None] & (columns < DIM)[None, :],
    )


@triton.jit
def _word_kernel(
    grad,
    weights,
    winners,
    images,
    result,
    count,
    regions,
    total,
    PER_TEXT: tl.constexpr,
    DIM: tl.constexpr,
    WORDS: tl.constexpr,
    VALUES: tl.constexpr,
):
    word_ids = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    columns = tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    spoken, inside = word_ids < total, columns < DIM
    weight = tl.load(weights + word_ids, mask=spoken, other=0)
    gradient = tl.zeros((WORDS, VALUES), tl.float32)  # of a tile of words, a part of the width
    for _ in range(0, count):
        winner = tl.load(winners + word_ids, mask=spoken, other=0).to(tl.int64)
        share = weight * tl.load(grad + word_ids // PER_TEXT, mask=spoken, other=0)
        rows = tl.load(
            images + winner[:, None] * DIM + columns[None, :], mask=spoken[:, None] & inside[None, :], other=0
        )
        gradient += share[:, None] * rows.to(tl.float32)
        winners += total  # the pointers go on to the next image
        grad += total // PER_TEXT
        images += regions * DIM
    tl.store(
        result + word_ids[:, None] * DIM + columns[None, :],
        gradient.to(result.dtype.element_ty),
        mask=spoken[:, None] & inside[None, :],
    )
