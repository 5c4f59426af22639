# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The ranking metrics of the `image_text_recall` module, which holds the one implementation, with types."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def metric_folder() -> Path:
    """Return the folder of the metric module, as `evaluate.load` takes it.

    Example:
        >>> metric_folder().name
        'image_text_recall'
    """
    return Path(str(files("hub_cards"))) / "metric" / "image_text_recall"


@lru_cache(maxsize=1)
def metric_module() -> ModuleType:
    """Load the metric module from its file; it must not need tgdt, since on the Hub it stands alone.

    Raises:
        ImportError: When the installation lacks the file.
    """
    path = metric_folder() / "image_text_recall.py"
    spec = importlib.util.spec_from_file_location("tgdt_image_text_recall", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"The metric module is missing at {path}. Install tgdt again.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relevant_positions(scores: NDArray[Any], relevant: NDArray[np.int64]) -> Positions:
    """Return positions of relevant items, ties against the system.

    Args:
        scores: (Q, G), higher is better.
        relevant: (Q, R) columns of the relevant items, padded with -1.

    Returns:
        (Q, R) ascending positions from 0, padded with -1.
    """
    found: Positions = metric_module().relevant_positions(scores, relevant)
    return found


def retrieval_summary(
    positions: Mapping[str, Positions], shortlist: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Return all metrics of one or both directions.

    Args:
        positions: `"i2t"` and `"t2i"` to (Q, R) ascending positions, padded with -1.
        shortlist: Direction to the size of its candidate list, beyond which a match is a miss.

    Returns:
        Recalls in percent, ranks from 1, the rest in [0, 1]; see the metric's card.

    Example:
        >>> retrieval_summary({"i2t": np.array([[0], [7]])})["i2t_r5"]
        50.0
    """
    summary: dict[str, float] = metric_module().retrieval_summary(positions, shortlist)
    return summary


def pad_rows(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return ragged rows of integers as one array padded with -1.

    Args:
        rows: Lists of integers.
    """
    padded: NDArray[np.int64] = metric_module().pad_rows(rows)
    return padded
