# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Stage one: which items come near a query by the dot product of global embeddings."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..kernels.ranking import Ranked
from .files import Gallery, Snapshot
from .scan import exact_best


class Engine(Protocol):
    """Finds the shortlist. Row numbers count over all segments, in order."""

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """Find the k best rows of each query.

        Args:
            snapshot: The gallery, N rows in all.
            queries: (Q, D) float32.
            k: How many rows are wanted, at most the number of allowed rows.
            allowed: (N,) bool, or None for every row.

        Returns:
            For each query its rows by their exact scores; more than k when there are ties at the border.
        """
        ...

    def rebuild(self, gallery: Gallery) -> None:
        """Make the engine anew from a compacted gallery and commit its files."""
        ...


class ExactEngine:
    """Exact search, see `exact_best`: recall is 1 by construction."""

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """See `Engine.shortlist`."""
        return exact_best(snapshot.segments, queries, k, allowed)

    def rebuild(self, gallery: Gallery) -> None:
        """Nothing is kept besides the segments."""
