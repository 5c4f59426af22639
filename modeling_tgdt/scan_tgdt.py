# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The int8 scan of stage one, on the compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .segment_tgdt import Segment


def select_kernel(
    segments: Sequence[Segment], queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> list[np.ndarray]:
    """Return for each query the rows that can be among its k best; an empty list when there is no kernel."""
    return []
