# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Delimited files and JSON lines as data sets, whole or as a stream: both ways of the same rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from modeling_tgdt.encoding_tgdt import check_text
from modeling_tgdt.retriever.picture_sources import is_missing, row_id

from .splits import has_word
from .text_files import DELIMITED, json_rows, table_rows

TEXT_TABLES = (*DELIMITED, ".json", ".jsonl")
_INT64 = 1 << 63
_SPLIT_WORDS = ("train", "test", "validation", "val", "dev")


def text_table(paths: Sequence[Path], *, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """Return the rows of text files, one after the other, as a data set of the columns that any of them has.

    Args:
        paths: `.csv`, `.tsv` and `.txt` are read as text throughout; `.json` and `.jsonl` keep their types.
        streaming: Read as it goes.

    Raises:
        ValueError: When a file cannot be read, or a column mixes types. The message names it.
    """
    names = [str(path) for path in paths]
    if streaming:
        return datasets.IterableDataset.from_generator(_rows, gen_kwargs={"paths": names})
    rows = list(_rows(names))
    columns: dict[str, None] = dict.fromkeys(name for row in rows for name in row)
    try:
        return datasets.Dataset.from_dict({name: _of_one_type([row.get(name) for row in rows]) for name in columns})
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's own errors are of the first two
        raise ValueError(f"{', '.join(names[:3])}: the rows make no table: {error}.{_mixed(rows, columns)}") from error


def files_by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return files by the split that their name or folder tells; `train` where it tells none, as `datasets` does."""
    parts: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        told = (word for name in (file.stem, file.parent.name) for word in _SPLIT_WORDS if has_word(name, word))
        parts[next(told, "train")].append(file)
    return dict(parts)


def is_shown(file: Path, folder: Path) -> bool:
    """Tell whether neither a file nor a folder on the way to it is hidden, or an office program's lock."""
    return not any(part.startswith((".", "~$")) for part in file.relative_to(folder).parts)


def _rows(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in paths:
        path = Path(name)
        reader = table_rows if path.suffix.lower() in DELIMITED else json_rows
        for row in reader(path):
            yield {key: _valid(value, path, key) for key, value in row.items()}


def _valid(value: Any, path: Path, key: str) -> Any:
    try:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_text(text)
    except ValueError as error:
        raise ValueError(f"{path}, column {key!r}: {error}. Correct or remove it.") from error
    return value


def _of_one_type(values: list[Any]) -> list[Any]:
    """Return numbers as text where texts are among them, as with the ids 7 and "b", or where they are too large.

    Texts among lists of captions become lists of one.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str, list}:
        return [[value] if isinstance(value, str) else value for value in values]
    huge = kinds == {int} and any(value is not None and not -_INT64 <= value < _INT64 for value in values)
    if huge or (str in kinds and kinds <= {str, int, float}):
        texts = [value if isinstance(value, str) or is_missing(value) else row_id(value, 0) for value in values]
        return [text if isinstance(text, str) else None for text in texts]
    return values


def _mixed(rows: list[dict[str, Any]], columns: Iterable[str]) -> str:
    for name in columns:
        values = _of_one_type([row.get(name) for row in rows])
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        if kinds == ["list"]:
            kinds = sorted({type(item).__name__ for value in values for item in value or () if item is not None})
        if len(kinds) > 1:
            return f" Column {name!r} mixes {' and '.join(kinds)}."
    return ""


__all__ = ["TEXT_TABLES", "files_by_split", "is_shown", "text_table"]
