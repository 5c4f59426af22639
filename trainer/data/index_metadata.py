# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Metadata of the items of `tgdt index`, from a CSV or JSONL file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from modeling_tgdt.gallery.metadata import metadata_table

NAME_COLUMNS = ("file_name", "id")


def read_metadata(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Read the metadata of items; one that the file does not name has none.

    Args:
        path: CSV or JSONL. `file_name`, or else `id`, names the item, every other column is a key.
        names: N names of items.

    Returns:
        N dicts.

    Raises:
        TypeError: When a key mixes types.
        ValueError: When the file cannot be read, or names an item twice or one that is not there.
    """
    rows = _read_rows(path)
    column = next((column for column in NAME_COLUMNS if rows and column in rows[0]), None)
    if column is None:
        found = sorted(rows[0]) if rows else "no row"
        raise ValueError(f"{str(path)!r} must have a column 'file_name' or 'id' that names the item, found {found}.")
    named = {str(row.pop(column, "")): {key: value for key, value in row.items() if value is not None} for row in rows}
    if len(named) < len(rows):
        raise ValueError(f"{str(path)!r} names {len(rows) - len(named)} items again; give one row per item.")
    unknown = sorted(named.keys() - set(names))
    if unknown:
        raise ValueError(
            f"{str(path)!r} names {len(unknown)} items that are not there, such as {unknown[:3]}; expected names like "
            f"{list(names[:3])}. Correct or remove these rows."
        )
    found_rows = [named.get(name, {}) for name in names]
    metadata_table(list(names), found_rows)  # refuses mixed types before anything is embedded
    return found_rows


def _read_rows(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ValueError(f"expected metadata in a .csv or .jsonl file, found {str(path)!r}.")
    try:
        rows = _read_csv(path) if suffix == ".csv" else _read_jsonl(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no readable {suffix[1:].upper()} file: {error}.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{str(path)!r} must hold one JSON object like {{"id": "a", "year": 2024}} per line.')
    return rows


def _read_jsonl(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    names = {column: pa.string() for column in NAME_COLUMNS}  # 007 stays 007
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=names))
    columns = {  # dates and times as they print: filters compare text, numbers and booleans
        name: column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns).to_pylist()
