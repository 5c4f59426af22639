# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Items of one and the same global embedding: scored once for all of them, where a gallery holds very many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..kernels.ranking import Ranked, offsets_of
from .segment import Segment

_BLOCK = 1 << 14


@dataclass(frozen=True)
class Twins:
    """Rows of a gallery by their embeddings.

    Attributes:
        first: (N,) int64, of each row the first one that holds the same numbers, itself where it is alone.
        order: Rows sorted by `first`, then by their ids.
    """

    first: np.ndarray
    order: np.ndarray

    def among(self, allowed: np.ndarray | None) -> Twins:
        """Leave only the allowed rows, (N,) bool, in `order`."""
        return self if allowed is None else replace(self, order=self.order[allowed[self.order]])

    @cached_property
    def leaders(self) -> np.ndarray:
        """One marked row, (N,) bool, for every embedding of the rows in `order`."""
        marked = np.zeros(len(self.first), dtype=bool)
        marked[self._sorted] = True
        return marked

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self.first[self.order]

    def expand(self, leaders: Ranked, k: int) -> Ranked:
        """Put in the place of every leader its rows in the order of their ids, as far as they can be among the k best.

        Args:
            leaders: Leaders of each query, best first, all ties of the last among them.
            k: How many rows are wanted.

        Returns:
            For each query its k best rows, best first, and what ties with the k-th.
        """
        begins = np.searchsorted(self._sorted, leaders.rows)
        counts = np.minimum(np.searchsorted(self._sorted, leaders.rows, side="right") - begins, k)
        counts[_rows_before(leaders, counts) >= k] = 0
        starts = offsets_of(counts)
        places = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], counts)
        return Ranked(self.order[places], np.repeat(leaders.scores, counts), starts[leaders.offsets])


def find_twins(segments: Sequence[Segment], id_ranks: np.ndarray) -> Twins:
    """Find the rows that hold the same embedding, by a hash and then number by number.

    Args:
        segments: The gallery, N rows in all.
        id_ranks: (N,) place of every row in the order of the ids.
    """
    bits = [segment.globals.view(np.uint32) for segment in segments]
    factors = _factors(bits[0].shape[1])
    hashes = np.concatenate([part[s : s + _BLOCK] @ factors for part in bits for s in range(0, len(part), _BLOCK)])
    _, places, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    first, bases = places[inverse], offsets_of(np.array([len(part) for part in bits]))
    copies = np.flatnonzero(first < np.arange(len(first)))
    for rows in np.split(copies, range(_BLOCK, len(copies), _BLOCK)):
        differs = (_take(bits, bases, rows) != _take(bits, bases, first[rows])).any(axis=1)
        first[rows[differs]] = rows[differs]
    return Twins(first, np.lexsort((id_ranks, first)))


def _factors(width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64) * 2 + 1


def _rows_before(leaders: Ranked, counts: np.ndarray) -> np.ndarray:
    """How many rows of its query come before each leader for certain: those that tie with it do not count."""
    begins = np.zeros(len(counts), dtype=bool)  # where a query or another score begins
    begins[1:] = leaders.scores[1:] != leaders.scores[:-1]
    edges = leaders.offsets[:-1][np.diff(leaders.offsets) > 0]
    begins[edges] = True
    before = offsets_of(counts)[:-1]
    before = before - np.repeat(before[edges], np.diff(np.append(edges, len(counts))))
    return before[np.flatnonzero(begins)][np.cumsum(begins) - 1]


def _take(parts: Sequence[np.ndarray], bases: np.ndarray, rows: np.ndarray) -> np.ndarray:
    numbers = np.searchsorted(bases, rows, side="right") - 1
    taken = np.empty((len(rows), parts[0].shape[1]), parts[0].dtype)
    for number in np.unique(numbers):
        in_part = numbers == number
        taken[in_part] = parts[number][rows[in_part] - bases[number]]
    return taken
