# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Exact stage one: every row is compared, so its recall is 1 by construction."""

from __future__ import annotations

import numpy as np

from ..kernels.ranking import Ranked
from .files import GalleryFiles, Snapshot
from .scan import exact_best


class ExactEngine:
    """Exact search, see `exact_best`."""

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """See `Engine.shortlist`."""
        return exact_best(snapshot.segments, queries, k, allowed)

    def rebuild(self, gallery: GalleryFiles) -> None:
        """Nothing is kept besides the segments."""
