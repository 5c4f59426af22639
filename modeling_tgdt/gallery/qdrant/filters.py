# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Filters and ids in Qdrant's words."""

from __future__ import annotations

import re
import uuid
from typing import Any

from ..filters import All, Call, Compare, Filter, Ids, Not, OneOf

try:
    from qdrant_client import models as _models
except ImportError:
    _models = None  # type: ignore[assignment]

models: Any = _models
NAMESPACE = uuid.UUID("6f0f4a0e-52d5-4f0e-9d0e-7d2f1a0c9b11")


def point_id(name: str) -> str:
    """Return the point of an id: the same on every machine, so a repeated upsert changes nothing."""
    return str(uuid.uuid5(NAMESPACE, name))


def qdrant_filter(where: Filter | None) -> Any:
    return None if where is None else models.Filter(must=[_condition(where)])


def _condition(where: Filter) -> Any:
    """Say a filter in Qdrant's words; it has none for functions and prefixes."""
    if isinstance(where, Ids):
        return models.HasIdCondition(has_id=[point_id(name) for name in where.ids])
    if isinstance(where, Not):
        return models.Filter(must_not=[_condition(where.part)])
    if isinstance(where, All):
        return models.Filter(must=[_condition(part) for part in where.parts])
    if isinstance(where, OneOf):
        return _one_of([_condition(part) for part in where.parts])
    if isinstance(where, Call) or where.operator == "prefix":
        kind = "a callable" if isinstance(where, Call) else "a prefix"
        raise ValueError(
            f"where[{where.key!r}] is {kind}, which Qdrant cannot run. Give values, a list of values or a range."
        )
    field = field_path(where.key)
    if where.operator == "in":
        return _one_of([_equal(field, where.key, item) for item in where.operand])
    if where.operator == "eq":
        return _equal(field, where.key, where.operand)
    return _range(field, where)


def _one_of(parts: list[Any]) -> Any:
    """Join by or; of an empty list nothing is true."""
    return models.Filter(should=parts) if parts else models.HasIdCondition(has_id=[])


def _range(field: str, where: Compare) -> Any:
    if isinstance(where.operand, bool) or not isinstance(where.operand, int | float | str):
        raise TypeError(f"where[{where.key!r}]: {where.operator!r} takes a number or a time, found {where.operand!r}.")
    kind = models.DatetimeRange if isinstance(where.operand, str) else models.Range
    try:
        return models.FieldCondition(key=field, range=kind(**{where.operator: where.operand}))
    except ValueError as error:
        raise TypeError(
            f"where[{where.key!r}]: Qdrant orders numbers and ISO times, found {where.operand!r}."
        ) from error


def field_path(key: str) -> str:
    return f"meta.{key}" if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'meta."{key}"'


def _equal(field: str, key: str, value: Any) -> Any:
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) > 1 << 53):
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))
    if isinstance(value, int | float):  # a match would tell 1 from 1.0
        return models.FieldCondition(key=field, range=models.Range(gte=value, lte=value))
    raise TypeError(f"where[{key!r}] must be a string, number or boolean, or a list of them, found {value!r}.")
