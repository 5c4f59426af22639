# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Lists of text from any column, and caption-wise rows joined by photo."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SENTENCE_KEYS = ("raw", "caption", "text", "sentence")
_WRITTEN_LIST = re.compile(r"""\s*\[\s*(["']).*["']\s*\]\s*""", re.DOTALL)


def text_list(value: Any) -> list[str]:
    """Return captions as strings: from one string, a list, or a list of structures with `raw` (Karpathy) or `text`.

    A string that is a list as Python or JSON writes it, as in the cells of a CSV, is that list.

    Args:
        value: Cell of a table; `None` and blank texts count as nothing.

    Raises:
        ValueError: When there is something other than text.

    Example:
        >>> text_list("a cat"), text_list([{"raw": "a pet"}, None])
        (['a cat'], ['a pet'])
        >>> text_list('["a cat", "a pet"]')
        ['a cat', 'a pet']
    """
    if value is None:
        return []
    if isinstance(value, str) and _WRITTEN_LIST.fullmatch(value):
        value = _written_list(value)
    values = (
        list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) else [value]
    )
    texts = [_sentence(item) if isinstance(item, Mapping) else item for item in values]
    wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"Captions must be text or lists of text, found {type(wrong).__name__}: {wrong!r}.")
    return [text for text in texts if text is not None and text.strip()]


def _sentence(item: Mapping[str, Any]) -> Any:
    """Return the text of a structured caption; of one that has none, itself."""
    return next((item[key] for key in _SENTENCE_KEYS if key in item), item)


def _written_list(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def group_by_photo(ids: list[str], lists: list[list[str]]) -> tuple[list[int], list[list[str]]]:
    """Return the first row of every photo and its lists joined, in order of appearance.

    Args:
        ids: Photo id of every row.
        lists: A list of every row.

    Example:
        >>> group_by_photo(["a", "b", "a"], [["x"], ["y"], ["z"]])
        ([0, 1], [['x', 'z'], ['y']])
    """
    rows: dict[str, int] = {}
    grouped: dict[str, list[str]] = {}
    for row, (image_id, texts) in enumerate(zip(ids, lists, strict=True)):
        rows.setdefault(image_id, row)
        grouped.setdefault(image_id, []).extend(texts)
    return list(rows.values()), list(grouped.values())
