# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Columns whose rows are lists of one picture, as many image-text data sets have them."""

from __future__ import annotations

from typing import Any

import datasets


def holds_lists(feature: Any) -> bool:
    """Tell whether a column holds lists of pictures."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    return isinstance(inner, datasets.Image)


def only_picture(pictures: list[Any], column: str, row: int) -> Any:
    """Return the one picture of a row; None for an empty list.

    Raises:
        ValueError: When there are several.
    """
    if len(pictures) > 1:
        raise ValueError(
            f"Column {column!r} has {len(pictures)} pictures in row {row}, a photo is one: make one row per picture, "
            "or keep one of them."
        )
    return pictures[0] if pictures else None


def unpack_pictures(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """Return a table whose lists of one picture are that picture, still encoded.

    Raises:
        ValueError: When a row has several.
    """
    encoded = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    features = datasets.Features({**encoded.features, column: datasets.Image(decode=False)})
    unpacked = encoded.map(_Unpack(column), with_indices=True, features=features, desc="Unpacking pictures")
    return unpacked.cast_column(column, datasets.Image())


class _Unpack:
    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        return {self.column: only_picture(row[self.column] or [], self.column, index)}


__all__ = ["holds_lists", "only_picture", "unpack_pictures"]
