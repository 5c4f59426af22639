# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Filters over ids and metadata: one grammar for every engine, the command line, the service and the page.

A filter is a mapping; all of its entries must hold:

    {"year": 2024}                            equal
    {"year": [2023, 2024]}                    one of these
    {"year": {"gte": 2021, "lt": 2024}}       gt, gte, lt, lte; also eq and in
    {"place": {"prefix": "New "}}             begins with
    {"year": {"not": 2021}}                   a condition that must not hold
    {"or": [FILTER, ...]}, {"and": [...]}, {"not": FILTER}
    {"ids": ["a.jpg", "b.jpg"]}               these items only
    {"year": lambda year: year % 4 == 0}      in Python, over the gallery's own files

An item without a value meets no condition on it, and so meets the `not` of it. A list meets a condition when one of
its values does; a function gets the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPERATORS = ("eq", "in", "gt", "gte", "lt", "lte", "prefix")
WORDS = ("and", "or", "not", "ids")
_SEQUENCES = (list, tuple, set, frozenset)
_MAX_DEPTH = 20

Where = Mapping[str, Any]


@dataclass(frozen=True)
class Compare:
    """A metadata value against an operand, by one of `OPERATORS`."""

    key: str
    operator: str
    operand: Any


@dataclass(frozen=True)
class Call:
    """A metadata value for which a function must return true."""

    key: str
    function: Callable[[Any], Any]


@dataclass(frozen=True)
class Ids:
    """An item whose id is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class All:
    """All of these must hold; an empty one always does."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class OneOf:
    """One of these must hold; an empty one never does."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """This must not hold."""

    part: Filter


Filter = Compare | Call | Ids | All | OneOf | Not


def parse_filter(where: Where | None) -> Filter | None:
    """Read a filter; `None` where nothing is asked.

    Args:
        where: Mapping in the grammar above.

    Raises:
        TypeError: When an operand has a type that nothing can be compared with.
        ValueError: When an operator is unknown, a filter is nested too deep, or a part is not a filter.

    Example:
        >>> parse_filter({"year": {"gte": 2021}})
        Compare(key='year', operator='gte', operand=2021)
    """
    return _mapping(where, 0) if where else None


def keys_of(part: Filter | None) -> Iterator[str]:
    """Yield the metadata keys that a filter reads."""
    if isinstance(part, Compare | Call):
        yield part.key
    elif isinstance(part, All | OneOf):
        for inner in part.parts:
            yield from keys_of(inner)
    elif isinstance(part, Not):
        yield from keys_of(part.part)


def _mapping(where: Any, depth: int) -> Filter:
    if not isinstance(where, Mapping):
        raise ValueError(f"A filter must be a mapping such as {{'year': {{'gte': 2021}}}}, found {where!r}.")
    if depth > _MAX_DEPTH:
        raise ValueError(f"A filter may be nested {_MAX_DEPTH} deep, found more.")
    return _joined(All, [_entry(key, value, depth) for key, value in where.items()])


def _entry(key: Any, value: Any, depth: int) -> Filter:
    if not isinstance(key, str):
        raise TypeError(f"The keys of a filter must be strings, found {key!r}.")
    if key in ("and", "or"):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{key!r} takes a list of filters, found {value!r}.")
        return _joined(All if key == "and" else OneOf, [_mapping(part, depth + 1) for part in value])
    if key == "not":
        return Not(_mapping(value, depth + 1))
    if key == "ids":
        if not isinstance(value, _SEQUENCES) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"'ids' takes a list of strings, found {value!r}.")
        return Ids(tuple(value))
    return _condition(key, value, depth)


def _condition(key: str, value: Any, depth: int) -> Filter:
    if callable(value):
        return Call(key, value)
    if isinstance(value, _SEQUENCES):
        return Compare(key, "in", tuple(_scalar(key, item) for item in value))
    if not isinstance(value, Mapping):
        return Compare(key, "eq", _scalar(key, value))
    if depth > _MAX_DEPTH:
        raise ValueError(f"A filter may be nested {_MAX_DEPTH} deep, found more.")
    return _joined(All, [_operation(key, operator, operand, depth) for operator, operand in value.items()])


def _operation(key: str, operator: str, operand: Any, depth: int) -> Filter:
    if operator == "not":
        return Not(_condition(key, operand, depth + 1))
    if operator not in OPERATORS:
        raise ValueError(f"Expected an operator of {[*OPERATORS, 'not']} in where[{key!r}], found {operator!r}.")
    if operator == "in":
        if not isinstance(operand, _SEQUENCES):
            raise ValueError(f"where[{key!r}]: 'in' takes a list, found {operand!r}.")
        return Compare(key, operator, tuple(_scalar(key, item) for item in operand))
    if operator == "prefix" and not isinstance(operand, str):
        raise ValueError(f"where[{key!r}]: 'prefix' takes a string, found {operand!r}.")
    return Compare(key, operator, _scalar(key, operand))


def _scalar(key: str, value: Any) -> Any:
    if isinstance(value, np.number | np.bool_):
        value = value.item()  # every engine knows Python's numbers
    if value is None or isinstance(value, Mapping | list | tuple | set | frozenset | bytes):
        raise TypeError(f"where[{key!r}] compares with strings, numbers, booleans and times, found {value!r}.")
    return value


def _joined(kind: type[All] | type[OneOf], parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else kind(tuple(parts))
