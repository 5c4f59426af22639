# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Metadata of gallery items: Arrow columns in, filters over them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    pa = pc = None

PREFIX = "meta:"  # keeps a user's key `id` apart from the column of ids
Condition = Any | list[Any] | Callable[[Any], bool]


def metadata_table(ids: list[str], metadata: Any) -> Any:
    """Build the Arrow table of ids and metadata.

    Args:
        ids: N ids.
        metadata: None, a sequence of N mappings, or a mapping of columns (or Arrow table) with N values each.

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
            raise TypeError(f"metadata keys must be strings, found {key!r}.")
        if len(values) != len(ids):
            raise ValueError(f"metadata {key!r} has {len(values)} values for {len(ids)} ids; give one value per id.")
        try:
            arrays[PREFIX + key] = values if isinstance(values, pa.ChunkedArray) else pa.array(list(values))
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise TypeError(
                f"metadata {key!r} mixes types or cannot be stored ({error}); use one type per key."
            ) from error
    table = pa.table(arrays)
    try:
        check_types(table.schema)
    except ValueError as error:
        raise TypeError(
            f"found {error}; give strings, numbers, booleans, dates or lists of them, one type per key."
        ) from error
    return table


def check_types(schema: Any) -> None:
    """Raise ValueError for metadata of a type that is no string, number, boolean, time or list of them.

    Bytes, structures and the rest have no form in JSON, or none that a filter can compare.
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
        raise TypeError(f"metadata does not fit the gallery's columns: {error}. Keep one type per key.") from error


def metadata_rows(table: Any) -> list[dict[str, Any]]:
    """Return one dict per row, without ids and without missing values."""
    names = [name for name in table.column_names if name.startswith(PREFIX)]
    rows = table.select(names).to_pylist() if names else [{} for _ in range(len(table))]
    return [{key[len(PREFIX) :]: value for key, value in row.items() if value is not None} for row in rows]


def matching_rows(table: Any, where: Mapping[str, Condition]) -> np.ndarray:
    """Evaluate a filter over a table: every condition must hold.

    Args:
        table: Arrow table with `meta:` columns.
        where: A key's value, a list of allowed values, or a callable from value to bool. Missing values never match.

    Returns:
        (N,) bool.
    """
    keep = np.ones(len(table), dtype=bool)
    for key, condition in where.items():
        if PREFIX + key not in table.column_names:
            return np.zeros(len(table), dtype=bool)
        keep &= _matches(table.column(PREFIX + key), key, condition)
    return keep


def _matches(column: Any, key: str, condition: Condition) -> np.ndarray:
    if callable(condition):
        return np.array([value is not None and bool(condition(value)) for value in column.to_pylist()], dtype=bool)
    try:
        if isinstance(condition, list | tuple | set | frozenset):
            choices = [_as_type(value, column.type) for value in condition]
            mask = pc.is_in(column, value_set=pa.array(choices, column.type))
            mask = pc.and_(mask, pc.is_valid(column))
        else:
            mask = pc.equal(column, pa.scalar(_as_type(condition, column.type), column.type))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise TypeError(
            f"where[{key!r}]={condition!r} does not fit the column's type {column.type}: {error}."
        ) from error
    return np.asarray(pc.fill_null(mask, False))


def _as_type(value: Any, kind: Any) -> Any:
    """Return the number in the column's type, or None, which matches nothing, where that type cannot hold it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if pa.types.is_integer(kind):
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            return None  # Arrow would cut 1.5 down to 1
        unsigned, bits = pa.types.is_unsigned_integer(kind), kind.bit_width
        low, high = (0, 1 << bits) if unsigned else (-(1 << (bits - 1)), 1 << (bits - 1))
        return int(value) if low <= value < high else None
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
    if isinstance(metadata, pa.Table):
        return {name: metadata.column(name) for name in metadata.column_names}
    if isinstance(metadata, Mapping):
        return metadata
    if not isinstance(metadata, Sequence) or not all(isinstance(row, Mapping) for row in metadata):
        raise TypeError(f"metadata must be a list of dicts or a dict of columns, found {type(metadata).__name__}.")
    if len(metadata) != size:
        raise ValueError(f"metadata has {len(metadata)} rows for {size} ids; give one dict per id.")
    keys = dict.fromkeys(key for row in metadata for key in row)
    return {key: [row.get(key) for row in metadata] for key in keys}
