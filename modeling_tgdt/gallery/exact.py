# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Exact stage one: every row is compared, so its recall is 1 by construction."""

from __future__ import annotations

import numpy as np

from ..kernels.ranking import Ranked
from .files import GalleryFiles, Snapshot
from .scan import exact_best
from .twins import find_twins

_MANY_TIES = 1 << 10  # of a query: from here on equal embeddings are looked for, which takes a second per million rows


class ExactEngine:
    """Exact search, see `exact_best`."""

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """See `Engine.shortlist`."""
        if snapshot.twins is not None:
            twins = snapshot.twins.among(allowed)
            shortlist = exact_best(snapshot.segments, queries, min(k, int(twins.leaders.sum())), twins.leaders)
            return twins.expand(shortlist, k)
        shortlist = exact_best(snapshot.segments, queries, k, allowed)
        if np.diff(shortlist.offsets).max() > k + _MANY_TIES:
            snapshot.twins = find_twins(snapshot.segments, snapshot.id_ranks)
        return shortlist

    def rebuild(self, gallery: GalleryFiles) -> None:
        """Nothing is kept besides the segments."""
