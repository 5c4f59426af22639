# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which rows of a table are one photo."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from modeling_tgdt.retriever.picture_sources import is_missing, row_id

logger = logging.getLogger(__name__)

_GENERIC_IDS = ("id", "key")  # may be an id of a caption as well
_ROWS = 256  # pictures held at a time


def photo_ids(
    table: datasets.Dataset, column_of: Mapping[str, str], names: list[str | None], columns: Mapping[str, str] | None
) -> list[str]:
    """Return photo ids: the id column, otherwise the picture's name, otherwise the row number.

    A row without an id is a photo of its own. A column `id` that numbers the captions of pictures that repeat names no
    photos, unless `columns` says that it does.

    Args:
        table: The table.
        column_of: Canonical name to column.
        names: File name of every row's picture, None where it has none.
        columns: What the caller chose.
    """
    column = column_of.get("image_id")
    if column is None:
        return [row_id(name, row) if name else str(row) for row, name in enumerate(names)]
    values: list[Any] = table.with_format(None).select_columns([column])[column][:]
    missing = [is_missing(value) for value in values]
    generic = _may_number_rows(column, columns)
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


def picture_names(
    table: datasets.Dataset, column_of: Mapping[str, str], columns: Mapping[str, str] | None
) -> list[str | None]:
    """Name pictures by the first row that holds the same file; all are None where none comes twice.

    Only where nothing else names the photos, since pictures are read for it: those of one length, in bytes.

    Args:
        table: Table with a column of pictures.
        column_of: Canonical name to column.
        columns: What the caller chose.
    """
    unnamed: list[str | None] = [None] * len(table)
    has_ids = "image_id" in column_of and not _may_number_rows(column_of["image_id"], columns)
    if "image" not in column_of or has_ids:
        return unnamed
    cells = table.select_columns([column_of["image"]]).with_format("arrow")
    lengths = [length for chunk in _encoded(cells) for length in pc.binary_length(chunk).to_pylist()]
    counts = Counter(length for length in lengths if length)
    if not any(count > 1 for count in counts.values()):
        return unnamed
    first: dict[bytes, int] = {}
    names, row = list(unnamed), 0
    for chunk in _encoded(cells):
        for cell in chunk:
            content = cell.as_buffer() if counts[lengths[row]] > 1 else None
            digest = hashlib.blake2b(content or str(row).encode(), digest_size=16).digest()
            names[row] = f"row-{first.setdefault(digest, row)}"
            row += 1
    return unnamed if len(first) == len(table) else names


def _may_number_rows(column: str, columns: Mapping[str, str] | None) -> bool:
    return column.lower() in _GENERIC_IDS and "image_id" not in (columns or {})


def _encoded(cells: datasets.Dataset) -> Iterator[Any]:
    """Yield the encoded pictures of a column as binary arrays; where there is only a path, that."""
    for batch in cells.iter(_ROWS):
        column = batch.column(0)
        for chunk in column.chunks:
            if pa.types.is_struct(chunk.type):
                yield pc.coalesce(chunk.field("bytes"), chunk.field("path").cast(pa.binary()))
            else:
                yield pa.nulls(len(chunk), pa.binary())


__all__ = ["photo_ids", "picture_names"]
