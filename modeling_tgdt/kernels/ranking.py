# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The best of many scores, for many queries at once: partial sort by the compiled kernel, or NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .maxsim import kernel, run_kernel

_FEW_TIES = 1 << 12  # so many beyond the k-th are simply sorted by their ids


@dataclass(frozen=True)
class Ranked:
    """Rows (P,) int64 of a gallery and their scores (P,) float32, one query after another: offsets (Q + 1) int64."""

    rows: np.ndarray
    scores: np.ndarray
    offsets: np.ndarray


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Turn counts (Q,) into offsets (Q + 1) int64."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def best_places(scores: np.ndarray, offsets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find for each query its k best scores and every tie of the k-th, best first, ties in the order of their places.

    Args:
        scores: (P,) float32, one query after another.
        offsets: (Q + 1) int64, where each query's scores begin and end.
        k: At least 1.

    Returns:
        Places (P',) int64 in `scores`, and their offsets (Q + 1).

    Example:
        >>> best_places(np.float32([1, 3, 2, 5]), np.array([0, 3, 4]), 2)[0].tolist()
        [1, 2, 3]
    """
    counts = np.empty(len(offsets) - 1, dtype=np.int64)
    places = np.empty(len(scores), dtype=np.int64)
    if kernel is None:
        parts = [
            _best_of(scores[first:last], k) + first for first, last in zip(offsets[:-1], offsets[1:], strict=True)
        ]
        return np.concatenate([places[:0], *parts]), offsets_of(np.array([len(part) for part in parts]))
    scores, starts = np.ascontiguousarray(scores, np.float32), np.ascontiguousarray(offsets, np.int64)
    run_kernel("tgdt_top", scores, starts, ctypes.c_int64(len(counts)), ctypes.c_int64(k), places, counts)
    ends = offsets_of(counts)
    return places[: ends[-1]], ends


def best_by_id(
    scores: np.ndarray,
    offsets: np.ndarray,
    k: int,
    ids: Callable[[np.ndarray], list[str]],
    ranks: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best scores of each query, ties in the order of the ids.

    Args:
        scores: (P,) float32.
        offsets: (Q + 1) int64.
        k: At least 1.
        ids: Ids of places.
        ranks: Numbers of places in the order of their ids, for many ties: numbers are compared faster than texts.

    Returns:
        Places, at most k of each query, and their offsets (Q + 1).
    """
    places, ends = best_places(scores, offsets, k)
    ranked = scores[places]  # (P',), best first within each query
    tied = offsets_of(np.append(ranked[1:] == ranked[:-1], False))  # neighbours that are equal, up to each place
    # A query has ties when pairs of equal neighbours lie between its first and its last place; most have none.
    for query in np.flatnonzero(tied[np.maximum(ends[1:] - 1, ends[:-1])] > tied[ends[:-1]]) if tied[-1] else ():
        span = slice(ends[query], ends[query + 1])
        if ranks is not None and ends[query + 1] - ends[query] > k + _FEW_TIES:
            first = _first_of(ranked[span], ranks(places[span]), k)  # sorting every tie by its id would take seconds
            places[ends[query] : ends[query] + k] = places[span][first]
        else:
            places[span] = places[span][np.lexsort((np.array(ids(places[span]), dtype=object), -ranked[span]))]
    counts = np.diff(ends)
    if (counts > k).any():  # ties of the k-th came along; now that ids have ordered them, the rest goes
        places = places[np.arange(len(places)) - np.repeat(ends[:-1], counts) < k]
        ends = offsets_of(np.minimum(counts, k))
    return places, ends


def _first_of(scores: np.ndarray, ranks: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k best of descending scores, the smallest ranks among ties; not all ties are sorted."""
    better = int(np.searchsorted(-scores, -scores[k - 1]))  # how many are above the border, all of them kept
    tied = better + np.argpartition(ranks[better:], k - better - 1)[: k - better]  # at the border, smallest ranks
    first = np.concatenate([np.arange(better), tied])
    return first[np.lexsort((ranks[first], -scores[first]))]


def _best_of(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k best scores, best first, and of every tie of the k-th."""
    last = -np.inf if len(scores) < k else np.partition(scores, len(scores) - k)[len(scores) - k]  # the k-th score
    better = np.flatnonzero(scores > last)
    return np.concatenate([better[np.argsort(-scores[better], kind="stable")], np.flatnonzero(scores == last)])
