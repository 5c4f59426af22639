# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Max-sum over ragged tokens in Triton: each pair is scored in one program, and tokens are read where they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..triton_similarity_tgdt import factor_dtype, tile_size

try:  # guarded, or transformers would ask everybody who loads this code from the Hub to install Triton
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("These kernels need the package triton; PyTorch does the same without it.") from error


class TokenSpans(NamedTuple):
    """One side of P pairs: tokens (T, D), scales (T, 1) or None, and start and number (P,) int64 of each pair's."""

    rows: Tensor
    scales: Tensor | None
    starts: Tensor
    counts: Tensor


def triton_maxsim(summed: TokenSpans, taken: TokenSpans) -> Tensor:
    """Score pairs: the sum over tokens of one side of the best dot product with a token of the other.

    Products of bfloat16 and of int8 codes are exact and summed in float32 and int32; other dtypes are computed in
    float32 without TF32.

    Args:
        summed: The words.
        taken: The regions, of the same width D; the dtypes of both are equal, or computed in float32.

    Returns:
        (P,) float32. A pair without words or without regions scores 0.
    """
    scores = torch.empty(len(summed.starts), dtype=torch.float32, device=summed.rows.device)
    if len(scores):
        with torch.cuda.device_of(scores):
            _maxsim_kernel[(len(scores),)](*summed, *taken, scores, **maxsim_shapes(summed, taken))
    return scores


def maxsim_shapes(summed: TokenSpans, taken: TokenSpans) -> dict[str, Any]:
    """Return what the kernel is compiled for."""
    compute = tl.float32
    if summed.rows.dtype == taken.rows.dtype in (torch.bfloat16, torch.int8):
        compute = factor_dtype(taken.rows)
    return {
        "DIM": taken.rows.shape[1],
        "WORDS": tile_size(int(summed.counts.max())),
        "REGIONS": tile_size(int(taken.counts.max())),
        "STEP": 32 if compute == tl.float32 else 64,
        "COMPUTE": compute,
        "SUM": tl.int32 if compute == tl.int8 else tl.float32,
    }


@triton.jit
def _maxsim_kernel(
    summed,
    summed_scales,
    summed_starts,
    summed_counts,
    taken,
    taken_scales,
    taken_starts,
    taken_counts,
    scores,
    DIM: tl.constexpr,
    WORDS: tl.constexpr,
    REGIONS: tl.constexpr,
    STEP: tl.constexpr,
    COMPUTE: tl.constexpr,
    SUM: tl.constexpr,
):
    pair = tl.program_id(0)  # one program scores one pair: words in tiles, for each of them all regions in tiles
    words = tl.load(summed_counts + pair)
    regions = tl.load(taken_counts + pair)
    first_word = tl.load(summed_starts + pair)
    first_region = tl.load(taken_starts + pair)
    total = tl.zeros((WORDS,), tl.float32)
    for word in range(0, words, WORDS):
        word_ids = word + tl.arange(0, WORDS)  # (WORDS,), beyond the last one masked
        best = tl.full((WORDS,), float("-inf"), tl.float32)
        for region in range(0, regions, REGIONS):
            region_ids = region + tl.arange(0, REGIONS)
            dots = tl.zeros((WORDS, REGIONS), SUM)  # summed over STEP numbers of the width at a time
            for start in range(0, DIM, STEP):
                columns = start + tl.arange(0, STEP)
                inside = columns < DIM
                a = tl.load(  # (WORDS, STEP)
                    summed + (first_word + word_ids)[:, None] * DIM + columns[None, :],
                    mask=(word_ids < words)[:, None] & inside[None, :],
                    other=0,
                )
                b = tl.load(  # (STEP, REGIONS), read transposed
                    taken + (first_region + region_ids)[None, :] * DIM + columns[:, None],
                    mask=(region_ids < regions)[None, :] & inside[:, None],
                    other=0,
                )
                dots = tl.dot(a.to(COMPUTE), b.to(COMPUTE), dots, input_precision="ieee", out_dtype=SUM)
            values = dots.to(tl.float32)
            if summed_scales is not None:
                word_scales = tl.load(summed_scales + first_word + word_ids, mask=word_ids < words, other=0)
                values *= word_scales[:, None]
            if taken_scales is not None:
                region_scales = tl.load(taken_scales + first_region + region_ids, mask=region_ids < regions, other=0)
                values *= region_scales[None, :]
            values = tl.where((region_ids < regions)[None, :], values, float("-inf"))  # padding never is the best
            best = tl.maximum(best, tl.max(values, axis=1))
        total += tl.where((word_ids < words) & (regions > 0), best, 0.0)
    tl.store(scores + pair, tl.sum(total))
