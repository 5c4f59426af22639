# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The scan of stage one: approximate scores of every row with a known error, then the rows that could be the best."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from ..kernels.maxsim import dot_products, kernel, run_kernel, vector_stores
from ..kernels.quantize import quantize_int8
from ..kernels.ragged import Pairs
from ..kernels.ranking import Ranked, best_places, offsets_of
from .segment import Segment

_SCAN_QUERIES = 48  # their packed codes stay in the cache
_TIES = 1 << 22  # best rows that find room at first, of all queries
_SCAN_VALUES = 1 << 25  # approximate scores held at a time: 128 MiB


def exact_best(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None, threads: int | None = None
) -> Ranked:
    """Find the k best rows of each query by dot product.

    A row is dropped only when its upper bound is below the k-th best exact score, so nothing is missed. With the
    compiled kernel the scan reads int8 copies, a quarter of the memory; otherwise it is a blocked float32 product.

    Args:
        segments: The gallery, N rows in all.
        queries: (Q, D) float32.
        k: At most the number of allowed rows.
        allowed: (N,) bool, or None for every row.
        threads: CPU threads; PyTorch's number by default.

    Returns:
        For each query its k best rows with all ties of the k-th, best first.
    """
    total = sum(map(len, segments))
    step = min(_SCAN_QUERIES, max(1, _SCAN_VALUES // max(total, 1)))
    find = _best_float if kernel is None else _best_int8
    workers = threads or torch.get_num_threads()
    blocks = [queries[start : start + step] for start in range(0, len(queries), step)]
    parts = [find(segments, block, k, allowed, workers) for block in blocks]
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
    scores = np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)])
    return Ranked(rows, scores, offsets_of(np.concatenate([np.zeros(0, int), *(np.diff(p.offsets) for p in parts)])))


def recheck(segments: Sequence[Segment], queries: np.ndarray, rows: Sequence[np.ndarray], k: int) -> Ranked:
    """Score rows exactly and keep the k best of each query with all ties of the k-th.

    Args:
        segments: The gallery.
        queries: (Q, D) float32.
        rows: Candidate rows of each query.
        k: How many to keep.

    Returns:
        For each query the rows kept, best first.
    """
    candidates = np.concatenate([np.zeros(0, np.int64), *rows])
    offsets = offsets_of(np.array([len(part) for part in rows]))
    scores = dot_rows(segments, queries, candidates, offsets)
    places, ends = best_places(scores, offsets, k)
    return Ranked(candidates[places], scores[places], ends)


def dot_rows(segments: Sequence[Segment], queries: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Dot products of queries (Q, D) with global embeddings of rows (P,), grouped by query through offsets (Q + 1).

    A row's score does not depend on the other rows, so equal embeddings tie exactly.
    """
    return dot_products([segment.globals for segment in segments], queries, locate(segments, rows, offsets))


def locate(segments: Sequence[Segment], rows: np.ndarray, offsets: np.ndarray) -> Pairs:
    """Turn row numbers of the gallery into pairs of segment and item."""
    if len(segments) == 1:
        return Pairs(np.zeros(len(rows), np.int32), rows, offsets)
    bases = _bases(segments)
    numbers = (np.searchsorted(bases, rows, side="right") - 1).astype(np.int32)
    return Pairs(numbers, rows - bases[numbers], offsets)


def _bases(segments: Sequence[Segment]) -> np.ndarray:
    return offsets_of(np.array([len(segment) for segment in segments]))


def _best_int8(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None, threads: int
) -> Ranked:
    dim = segments[0].codes.shape[1]  # a number behind them is the factor of the items' bias, which is not rounded
    codes, scales = quantize_int8(queries[:, :dim])
    scores = _scan(segments, codes, scales, threads)  # (Q, N), approximate
    if segments[0].bias is not None:
        scores += queries[:, dim:] * np.concatenate([segment.bias for segment in segments])
    # |q.x - q'.x'| <= |q - q'| |x| + |q'| |x - x'|
    rounded = codes * scales[:, :1]  # (Q, D), q'
    norm = max(segment.record.max_norm for segment in segments)
    residual = max(segment.record.max_residual for segment in segments)
    error = np.linalg.norm(queries[:, :dim] - rounded, axis=1) * norm + np.linalg.norm(rounded, axis=1) * residual
    error = (1.0001 * error + 1e-5 * norm * np.linalg.norm(queries, axis=1)).astype(np.float32)  # and float32's own
    counts = np.zeros(len(queries), dtype=np.int64)
    capacity = min(scores.shape[1], max(2 * k, _TIES // len(queries)))  # what is not written costs no memory
    while True:
        rows = np.empty((len(queries), capacity), dtype=np.int64)
        exact = np.empty((len(queries), capacity), dtype=np.float32)
        run_kernel(
            "tgdt_best",
            vector_stores([segment.globals for segment in segments]),
            _bases(segments),
            ctypes.c_int64(len(segments)),
            ctypes.c_int64(queries.shape[1]),
            np.ascontiguousarray(queries),
            ctypes.c_int64(len(queries)),
            scores,
            allowed,
            ctypes.c_int64(k),
            error,
            ctypes.c_int64(capacity),
            ctypes.c_int(threads),
            rows,
            exact,
            counts,
        )
        if counts.max() <= capacity:
            width = int(counts.max())
            keep = np.arange(width) < counts[:, None]
            return Ranked(rows[:, :width][keep], exact[:, :width][keep], offsets_of(counts))
        capacity = int(counts.max())  # more rows are within the error than there was room for: once more, with room


def _scan(segments: Sequence[Segment], codes: np.ndarray, scales: np.ndarray, threads: int) -> np.ndarray:
    total = sum(map(len, segments))
    scores = np.empty((len(codes), total), dtype=np.float32)
    first = 0
    for segment in segments:
        run_kernel(
            "tgdt_scan",
            segment.codes,
            segment.code_scales,
            ctypes.c_int64(len(segment)),
            ctypes.c_int64(codes.shape[1]),
            codes,
            scales,
            ctypes.c_int64(len(codes)),
            ctypes.c_int64(total),
            ctypes.c_int(threads),
            scores[:, first:],
        )
        first += len(segment)
    return scores


def _best_float(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None, threads: int
) -> Ranked:
    scores = torch.from_numpy(np.concatenate([queries @ s.globals.T for s in segments], axis=1))
    if allowed is not None:
        scores.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    norm = max(s.record.max_norm for s in segments)
    error = 1e-5 * norm * np.linalg.norm(queries, axis=1)  # float32 rounding, far above sqrt(D) * 6e-8
    border = scores.topk(k, dim=1).values[:, -1].numpy() - 2 * error
    rows = [np.flatnonzero(row >= limit) for row, limit in zip(scores.numpy(), border, strict=True)]
    return recheck(segments, queries, rows, k)
