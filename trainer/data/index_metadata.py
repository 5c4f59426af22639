# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Metadata of the items of `tgdt index`, from a CSV or JSONL file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_tgdt.gallery.metadata import metadata_table
from modeling_tgdt.retriever.picture_sources import is_missing

from .names import NameFinder
from .text_files import json_rows, table_rows

NAME_COLUMNS = ("file_name", "id")
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"[+-]?(0|[1-9]\d{0,17})"), int),
    (re.compile(r"[+-]?(0|[1-9]\d*)?\.?\d*(?<=[\d.])([eE][+-]?\d+)?(?<!\.)"), float),
    (re.compile(r"true|false", re.IGNORECASE), lambda value: value.lower() == "true"),
)


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
    found_names = _names(path, rows, column, names)
    values = [{key: value for key, value in row.items() if key != column and value is not None} for row in rows]
    named = dict(zip(found_names, values, strict=True))
    if len(named) < len(rows):
        raise ValueError(f"{str(path)!r} names {len(rows) - len(named)} items again. Give one row per item.")
    unknown = sorted(named.keys() - set(names))
    if unknown:
        raise ValueError(
            f"{str(path)!r} names {len(unknown)} items that are not there, such as {unknown[:3]}; expected names like "
            f"{list(names[:3])}. Correct or remove these rows."
        )
    found_rows = [named.get(name, {}) for name in names]
    metadata_table(list(names), found_rows)  # refuses mixed types before anything is embedded
    return found_rows


def _names(path: Path, rows: Sequence[Mapping[str, Any]], column: str, known: Sequence[str]) -> list[str]:
    """Return the item that each row means, whatever its slashes, Unicode form and folder."""
    nameless = [number for number, row in enumerate(rows, start=1) if is_missing(row.get(column))]
    if nameless:
        raise ValueError(f"{str(path)!r} names no item in row {nameless[0]}: its {column!r} is empty.")
    finder = NameFinder(known)
    asked = [str(row[column]) for row in rows]
    return [finder.find(name) or name for name in asked]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"Expected metadata in a .csv or .jsonl file, found {str(path)!r}.")
    try:
        return list(json_rows(path)) if suffix == ".jsonl" else _typed_rows(list(table_rows(path, free_text=False)))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not a readable {suffix[1:].upper()} file: {error}") from error


def _typed_rows(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Give a column numbers or booleans where all of its values are; names, dates and 007 stay text."""
    columns = {
        name: [row[name] for row in rows] if name in NAME_COLUMNS else _typed([row[name] for row in rows])
        for name in (rows[0] if rows else ())
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _typed(values: list[str]) -> list[Any]:
    told = [value for value in values if value]
    kind = next((kind for form, kind in _KINDS if told and all(form.fullmatch(value) for value in told)), None)
    return [None if not value else value if kind is None else kind(value) for value in values]
