# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Stage one: which items come near a query by the dot product of global embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .gallery_tgdt import Gallery, Snapshot
from .maxsim_tgdt import Pairs, RaggedQueries, kernel, maxsim
from .scan_tgdt import possible_best
from .segment_tgdt import Segment

_RECHECK_ROWS = 1 << 14
_SCAN_QUERIES = 48  # their packed codes stay in the cache
_SCAN_VALUES = 1 << 25  # approximate scores held at a time: 128 MiB


class Engine(Protocol):
    """Finds the shortlist. Row numbers count over all segments, in order."""

    def shortlist(
        self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find the k best rows of each query.

        Args:
            snapshot: The gallery, N rows in all.
            queries: (Q, D) float32.
            k: How many rows are wanted, at most the number of allowed rows.
            allowed: (N,) bool, or None for every row.

        Returns:
            For each query its rows and their exact scores, unordered; more than k when there are ties at the border.
        """
        ...

    def rebuild(self, gallery: Gallery) -> None:
        """Make the engine anew from a compacted gallery and commit its files."""
        ...


class ExactEngine:
    """Exact search: a scan with a known error bound, then every row that could be among the k best in float32.

    With the compiled kernel the scan reads int8 copies (a quarter of the memory); otherwise it is a blocked float32
    product. Recall is 1 by construction: a row is dropped only when its upper bound is below the k-th lower bound.
    """

    def shortlist(
        self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Engine.shortlist`."""
        return recheck(snapshot.segments, queries, scan(snapshot.segments, queries, k, allowed), k)

    def rebuild(self, gallery: Gallery) -> None:
        """Nothing is kept besides the segments."""


def scan(segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[np.ndarray]:
    """Find the rows of each query that can be among its k best, in blocks of queries; see `possible_best`."""
    total = sum(map(len, segments))
    step = min(_SCAN_QUERIES, max(1, _SCAN_VALUES // max(total, 1)))
    found: list[np.ndarray] = []
    for start in range(0, len(queries), step):
        found += possible_best(segments, queries[start : start + step], k, allowed)
    return found


def recheck(
    segments: Sequence[Segment], queries: np.ndarray, rows: Sequence[np.ndarray], k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Score rows exactly and keep the k best of each query with all ties of the k-th.

    Args:
        segments: The gallery.
        queries: (Q, D) float32.
        rows: Candidate rows of each query.
        k: How many to keep.

    Returns:
        For each query the rows kept and their scores.
    """
    counts = np.array([len(r) for r in rows])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    scores = dot_rows(segments, queries, np.concatenate(rows) if len(rows) else np.zeros(0, np.int64), offsets)
    kept = []
    for query, candidates in enumerate(rows):
        own = scores[offsets[query] : offsets[query + 1]]
        if len(own) > k:
            keep = own >= np.partition(own, len(own) - k)[len(own) - k]
            candidates, own = candidates[keep], own[keep]
        kept.append((candidates, own))
    return kept


def dot_rows(segments: Sequence[Segment], queries: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Dot products of queries (Q, D) with global embeddings of rows (P,), grouped by query through offsets (Q + 1).

    A row's score does not depend on the other rows, so equal embeddings tie exactly.
    """
    pairs = locate(segments, rows, offsets)
    if kernel is not None:
        ragged = RaggedQueries(queries, np.arange(len(queries) + 1, dtype=np.int64))
        return maxsim([s.global_store for s in segments], ragged, pairs)
    scores = np.empty(len(rows))
    for query, vector in enumerate(queries.astype(np.float64)):
        for place in range(offsets[query], offsets[query + 1], _RECHECK_ROWS):
            block = slice(place, min(place + _RECHECK_ROWS, offsets[query + 1]))
            found = zip(pairs.stores[block], pairs.items[block], strict=True)
            scores[block] = np.stack([segments[number].globals[item] for number, item in found]) @ vector
    return scores.astype(np.float32)


def locate(segments: Sequence[Segment], rows: np.ndarray, offsets: np.ndarray) -> Pairs:
    """Turn row numbers of the gallery into pairs of segment and item."""
    bases = np.concatenate([[0], np.cumsum([len(s) for s in segments])]).astype(np.int64)
    numbers = (np.searchsorted(bases, rows, side="right") - 1).astype(np.int32)
    return Pairs(numbers, rows - bases[numbers], np.asarray(offsets, dtype=np.int64))
