# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which rows of a table are one photo."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import datasets

from modeling_tgdt.retriever.picture_sources import is_missing, row_id

logger = logging.getLogger(__name__)

_GENERIC_IDS = ("id", "key")  # may be an id of a caption as well


def photo_ids(
    table: datasets.Dataset, found: Mapping[str, str], names: list[str | None], columns: Mapping[str, str] | None
) -> list[str]:
    """Return photo ids: the id column, otherwise the picture's name, otherwise the row number.

    A row without an id is a photo of its own. A column `id` that numbers the captions of pictures that repeat names no
    photos, unless `columns` says that it does.

    Args:
        table: The table.
        found: Canonical name to column.
        names: File name of every row's picture, None where it has none.
        columns: What the caller chose.
    """
    column = found.get("image_id")
    if column is None:
        return [row_id(name, row) if name else str(row) for row, name in enumerate(names)]
    values: list[Any] = table.with_format(None).select_columns([column])[column][:]
    missing = [is_missing(value) for value in values]
    generic = column.lower() in _GENERIC_IDS and "image_id" not in (columns or {})
    repeat = None not in names and len(set(names)) < len(names)  # pictures that come in several rows
    if generic and repeat and len({str(value) for value in values}) == len(values):
        logger.warning(
            "Column %r numbers the rows, of which %d show %d pictures: photos are told by the picture instead. Pass "
            "columns={'image_id': %r} to keep it.", column, len(values), len(set(names)), column
        )  # fmt: skip
        missing = [True] * len(values)
    elif any(missing):
        logger.warning(
            "%d rows have no %r, the first is row %d; each is a photo of its own.",
            sum(missing), column, missing.index(True),
        )  # fmt: skip
    picked = [name if gone else value for name, value, gone in zip(names, values, missing, strict=True)]
    return [row_id(value, row) for row, value in enumerate(picked)]


__all__ = ["photo_ids"]
