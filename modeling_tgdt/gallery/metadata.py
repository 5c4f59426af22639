# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Metadata of gallery items: Arrow columns in, filters over them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from .filters import All, Call, Compare, Filter, Ids, Not, OneOf

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    pa = pc = None

PREFIX = "meta:"  # keeps a user's key `id` apart from the column of ids


def metadata_table(ids: list[str], metadata: Any) -> Any:
    """Build the Arrow table of ids and metadata.

    Args:
        ids: N ids.
        metadata: None, a sequence of N mappings, a mapping of columns with N values each, or a table (of Arrow,
            pandas, polars, datasets).

    Returns:
        Arrow table: `id` and one column `meta:<key>` per key.

    Raises:
        TypeError: When a key is not a string or its values have no common Arrow type.
        ValueError: When the number of rows is not N.
    """
    columns = {} if metadata is None else _columns(metadata, len(ids))
    arrays = {"id": pa.array(ids, pa.string())}
    for key, values in columns.items():
        if not isinstance(key, str):
            raise TypeError(f"Metadata keys must be strings, found {key!r}.")
        if isinstance(values, str | bytes):
            raise TypeError(f"Metadata {key!r} must hold one value per id, found the single value {values!r}.")
        values = values if isinstance(values, pa.ChunkedArray) else list(values)
        if len(values) != len(ids):
            raise ValueError(f"Metadata {key!r} has {len(values)} values for {len(ids)} ids. Give one value per id.")
        try:
            arrays[PREFIX + key] = values if isinstance(values, pa.ChunkedArray) else pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise TypeError(
                f"Metadata {key!r} mixes types or cannot be stored ({error}). Use one type per key."
            ) from error
    table = pa.table(arrays)
    try:
        check_types(table.schema)
    except ValueError as error:
        raise TypeError(
            f"Expected strings, numbers, booleans, dates or lists of them, one type per key, found {error}."
        ) from error
    return table


def check_types(schema: Any) -> None:
    """Raise ValueError for metadata of a type that is not a string, number, boolean, time or list of them.

    Bytes, structures and the rest cannot be written as JSON, or not be compared by a filter.
    """
    for field in schema:
        if field.name.startswith(PREFIX) and not _is_plain(field.type):
            raise ValueError(f"metadata {field.name[len(PREFIX) :]!r} of type {field.type}")


def _is_plain(kind: Any) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    checks = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(check(kind) for check in (*checks, types.is_temporal, types.is_decimal, types.is_null))


def wide_table(table: Any) -> Any:
    """Return a table whose texts, bytes and lists have 64-bit offsets: a column of a segment may pass 2 GiB."""
    return table.cast(pa.schema([field.with_type(_wide_type(field.type)) for field in table.schema]))


def _wide_type(kind: Any) -> Any:
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.large_list(kind.value_field.with_type(_wide_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide_type(field.type)) for field in kind])
    return kind


def merged_schema(known: Any, table: Any) -> Any:
    """Return the schema that covers both; raise TypeError when a key changes to a type that does not merge."""
    try:
        return pa.unify_schemas([known, table.schema], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"Metadata does not fit the gallery's columns: {error}. Keep one type per key.") from error


def metadata_rows(table: Any) -> list[dict[str, Any]]:
    """Return one dict per row, without ids and without missing values."""
    names = [name for name in table.column_names if name.startswith(PREFIX)]
    rows = table.select(names).to_pylist() if names else [{} for _ in range(len(table))]
    return [{key[len(PREFIX) :]: value for key, value in row.items() if value is not None} for row in rows]


def json_value(value: Any) -> Any:
    """Return metadata as JSON can hold it: NaN and infinity become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    return [json_value(item) for item in value] if isinstance(value, list) else value


def matching_rows(table: Any, condition: Filter) -> np.ndarray:
    """Evaluate a filter over a table.

    Args:
        table: Arrow table with the ids and `meta:` columns.
        condition: A parsed filter. Missing values meet no comparison.

    Returns:
        (N,) bool.
    """
    if isinstance(condition, All):
        parts = [matching_rows(table, part) for part in condition.parts]
        return np.logical_and.reduce(parts) if parts else np.ones(len(table), dtype=bool)
    if isinstance(condition, OneOf):
        parts = [matching_rows(table, part) for part in condition.parts]
        return np.logical_or.reduce(parts) if parts else np.zeros(len(table), dtype=bool)
    if isinstance(condition, Not):
        return ~matching_rows(table, condition.part)
    if isinstance(condition, Ids):
        column = table.column("id")
        return np.asarray(pc.is_in(column, value_set=pa.array(condition.ids, column.type)))
    if PREFIX + condition.key not in table.column_names:
        return np.zeros(len(table), dtype=bool)
    column = table.column(PREFIX + condition.key)
    if isinstance(condition, Call):
        values = column.to_pylist()
        return np.array([value is not None and bool(condition.function(value)) for value in values], dtype=bool)
    return _compare(column, condition)


def _compare(column: Any, condition: Compare) -> np.ndarray:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _one_meets(column, condition)
    try:
        mask = _mask(column, condition.operator, condition.operand)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise TypeError(
            f"where[{condition.key!r}]: {condition.operand!r} does not fit the column's type {column.type}: {error}."
        ) from error
    return np.asarray(pc.fill_null(mask, False))


def _one_meets(column: Any, condition: Compare) -> np.ndarray:
    """Tell which lists have a value that meets the condition."""
    met = _compare(pc.list_flatten(column), condition)
    mask = np.zeros(len(column), dtype=bool)
    mask[np.asarray(pc.list_parent_indices(column))[met]] = True
    return mask


def _mask(column: Any, operator: str, operand: Any) -> Any:
    if operator == "in":
        choices = pa.array([_as_type(value, column.type) for value in operand], column.type)
        return pc.and_(pc.is_in(column, value_set=choices), pc.is_valid(column))
    if operator == "prefix":
        return pc.starts_with(column, operand)
    if operator == "eq":
        return pc.equal(column, pa.scalar(_as_type(operand, column.type), column.type))
    return _ordered(column, operator, operand)


def _ordered(column: Any, operator: str, operand: Any) -> Any:
    kind = column.type
    if pa.types.is_integer(kind) and isinstance(operand, int | float) and not isinstance(operand, bool):
        return _between(column, operator, operand)
    if pa.types.is_decimal(kind) and isinstance(operand, int | float) and not isinstance(operand, bool):
        operand = Decimal(str(operand))
    bound = pa.scalar(operand)
    if not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):  # these are compared by value
        bound = bound.cast(kind)
    return {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}[operator](column, bound)


def _between(column: Any, operator: str, operand: float) -> Any:
    """Compare integers with any number by value, whether or not their type can hold it."""
    low, high = _integer_range(column.type)
    if operand != operand:
        low = high
    else:
        bound = min(max(operand, -(1 << 65)), 1 << 65)
        if operator in ("gt", "gte"):
            low = max(low, math.floor(bound) + 1 if operator == "gt" else math.ceil(bound))
        else:
            high = min(high, math.ceil(bound) if operator == "lt" else math.floor(bound) + 1)
    if low >= high:
        return pc.and_(pc.is_valid(column), False)
    ends = (pa.scalar(end, column.type) for end in (low, high - 1))
    return pc.and_(pc.greater_equal(column, next(ends)), pc.less_equal(column, next(ends)))


def _integer_range(kind: Any) -> tuple[int, int]:
    """Return the least value of an integer type, and the one after its greatest."""
    if pa.types.is_unsigned_integer(kind):
        return 0, 1 << kind.bit_width
    return -(1 << (kind.bit_width - 1)), 1 << (kind.bit_width - 1)


def _as_type(value: Any, kind: Any) -> Any:
    """Return an ISO time or a number in the column's type, or None, which matches nothing, where it cannot be held."""
    if isinstance(value, str) and pa.types.is_temporal(kind):
        return pa.scalar(value).cast(kind).as_py()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if pa.types.is_integer(kind):
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            return None  # Arrow would cut 1.5 down to 1
        low, high = _integer_range(kind)
        return int(value) if low <= value < high else None
    if pa.types.is_decimal(kind):
        exact = Decimal(str(value))
        tens = exact.scaleb(kind.scale)
        return exact if tens == tens.to_integral_value() and abs(tens) < 10**kind.precision else None
    if pa.types.is_floating(kind):
        try:
            return float(value) if float(value) == value else None
        except OverflowError:
            return None
    return value


def metadata_types(schema: Any) -> dict[str, str]:
    """Return the Arrow type of every metadata key of a schema, such as `{"year": "int64"}`."""
    kinds = {field.name[len(PREFIX) :]: str(field.type) for field in schema if field.name.startswith(PREFIX)}
    return {key: kind.replace("large_", "") for key, kind in kinds.items()}


def _columns(metadata: Any, size: int) -> Mapping[Any, Any]:
    if hasattr(metadata, "with_format"):  # a data set, whatever form its rows are read in
        metadata = metadata.with_format("arrow")[:]
    if hasattr(metadata, "__arrow_c_stream__"):
        table = pa.table(metadata)
        return {name: table.column(name) for name in table.column_names if not name.startswith("__index_level_")}
    if isinstance(metadata, Mapping):
        return metadata
    if not isinstance(metadata, Sequence) or not all(isinstance(row, Mapping) for row in metadata):
        raise TypeError(
            f"Metadata must be a list of dicts, a dict of columns or a table, found {type(metadata).__name__}."
        )
    if len(metadata) != size:
        raise ValueError(f"Metadata has {len(metadata)} rows for {size} ids. Give one dict per id.")
    keys = dict.fromkeys(key for row in metadata for key in row)
    return {key: [row.get(key) for row in metadata] for key in keys}
