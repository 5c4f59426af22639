# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The scan of stage one: approximate scores of every row with a known error, and the rows that could be the best."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from .maxsim_tgdt import kernel, run_kernel
from .quantize_tgdt import quantize_int8
from .segment_tgdt import Segment


def possible_best(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None, threads: int | None = None
) -> list[np.ndarray]:
    """Return for each query every row that can be among its k best by dot product, and few others.

    Args:
        segments: The gallery, N rows in all.
        queries: (Q, D) float32.
        k: At most the number of allowed rows.
        allowed: (N,) bool, or None for every row.
        threads: CPU threads; PyTorch's number by default.

    Returns:
        Q arrays of rows, ascending.
    """
    if kernel is None:
        return _possible_best_float(segments, queries, k, allowed)
    threads = threads or torch.get_num_threads()
    codes, scales = quantize_int8(queries)
    scores = _scan(segments, codes, scales, threads)
    # |q.x - q'.x'| <= |q - q'| |x| + |q'| |x - x'|
    rounded = codes * scales[:, :1]
    norm = max(segment.record.max_norm for segment in segments)
    residual = max(segment.record.max_residual for segment in segments)
    error = np.linalg.norm(queries - rounded, axis=1) * norm + np.linalg.norm(rounded, axis=1) * residual
    slack = (2.0001 * error + 1e-5 * norm * np.linalg.norm(queries, axis=1)).astype(np.float32)
    return _select(scores, k, slack, allowed, threads)


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


def _select(
    scores: np.ndarray, k: int, slack: np.ndarray, allowed: np.ndarray | None, threads: int
) -> list[np.ndarray]:
    capacity, found = 4 * k + 1024, np.zeros(len(scores), dtype=np.int64)
    while True:
        rows = np.empty((len(scores), capacity), dtype=np.int64)
        run_kernel(
            "tgdt_select",
            scores,
            ctypes.c_int64(scores.shape[1]),
            ctypes.c_int64(len(scores)),
            allowed,
            ctypes.c_int64(k),
            slack,
            ctypes.c_int64(capacity),
            ctypes.c_int(threads),
            rows,
            found,
        )
        if found.max() <= capacity:
            return [own[:count] for own, count in zip(rows, found, strict=True)]
        capacity = int(found.max())


def _possible_best_float(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> list[np.ndarray]:
    scores = torch.from_numpy(np.concatenate([queries @ s.globals.T for s in segments], axis=1))
    if allowed is not None:
        scores.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    norm = max(s.record.max_norm for s in segments)
    error = 1e-5 * norm * np.linalg.norm(queries, axis=1)  # float32 rounding, far above sqrt(D) * 6e-8
    border = scores.topk(k, dim=1).values[:, -1].numpy() - 2 * error
    return [np.flatnonzero(row >= limit) for row, limit in zip(scores.numpy(), border, strict=True)]
