# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""One segment of a gallery: append-only files, memory-mapped up to their committed length.

globals.f32     (N, G)   global embeddings; where items carry a hubness (N, G + 1), the last number minus it
codes.i8        (N, G)   the embeddings in int8, read by the exact scan
codes.scale     (N, 2)   float32: scale and sum of the codes of each row
bias.f32        (N,)     the last numbers of globals.f32 once more, for the scan; only where items carry a hubness
tokens          (T, D)   token rows of all items, one after another, in the token dtype
tokens.scale    (T, 2)   float32, scaled token dtypes only
tokens.bits     (T, B)   uint8, binary tokens only: a bit per number, then a factor; `tokens` are int8 there
offsets.i64     (N + 1)  first token row of each item, and the end
rows.arrow      N rows   ids and metadata: Arrow IPC streams, one per commit

G is the gallery's `global_dim`, or D.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels.binary import encode_bits
from ..kernels.quantize import BINARY, SCALED_DTYPES, STORAGE_DTYPES, bits_width, encode_tokens, quantize_int8
from ..kernels.ragged import TokenStore
from .metadata import check_types, wide_table
from .plain_files import map_inside
from .storage import append_bytes, file_crc, sync_directory

try:
    import pyarrow as pa
except ImportError:  # datasets brings it; a converted model alone does not need it
    pa = None


RESTORE = "Restore the file from a copy, or build the gallery again."


@dataclass(frozen=True)
class RowLayout:
    """What the settings of a gallery say about the rows of its files.

    Attributes:
        dim: D, length of a token.
        global_dim: G, length of a global embedding.
        has_bias: Whether a number more is stored behind it, minus the hubness.
        token_dtype: A key of `STORAGE_DTYPES`.
        has_bits: Whether a bit per number of the tokens is stored as well.
    """

    dim: int
    global_dim: int
    has_bias: bool
    token_dtype: str
    has_bits: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RowLayout:
        """Read the settings of a manifest."""
        dim, binary = settings["dim"], settings["token_dtype"] == BINARY
        token_dtype = "int8" if binary else settings["token_dtype"]
        return cls(dim, settings.get("global_dim", dim), bool(settings.get("hubness")), token_dtype, binary)

    @property
    def global_columns(self) -> int:
        """Numbers of a row of `globals.f32`."""
        return self.global_dim + self.has_bias

    def file_sizes(self, rows: int, tokens: int) -> dict[str, int]:
        """Return the length that follows from its rows and tokens, for every file of a segment but `rows.arrow`."""
        sizes = {
            "globals.f32": 4 * rows * self.global_columns,
            "codes.i8": rows * self.global_dim,
            "codes.scale": 8 * rows,
            "tokens": tokens * self.dim * np.dtype(STORAGE_DTYPES[self.token_dtype]).itemsize,
            "offsets.i64": 8 * (rows + 1),
        }
        sizes |= {"tokens.scale": 8 * tokens} if self.token_dtype in SCALED_DTYPES else {}
        sizes |= {"tokens.bits": tokens * bits_width(self.dim)} if self.has_bits else {}
        return sizes | ({"bias.f32": 4 * rows} if self.has_bias else {})


@dataclass(frozen=True)
class Batch:
    """Encoded items on their way into a segment; the fields are the files above, counts are tokens per item."""

    table: Any
    globals: np.ndarray
    codes: np.ndarray
    code_scales: np.ndarray
    tokens: np.ndarray
    token_scales: np.ndarray | None
    counts: np.ndarray
    bits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.globals)


def encode_batch(table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray, layout: RowLayout) -> Batch:
    """Encode items: Arrow table of N rows, (N, G) or (N, G + 1) and (sum of counts, D) float32, counts (N,)."""
    codes = quantize_int8(globals_[:, : layout.global_dim])
    rows, scales = encode_tokens(tokens, layout.token_dtype)
    bits = encode_bits(rows, scales) if layout.has_bits and scales is not None else None
    return Batch(table, globals_, *codes, rows, scales, counts, bits)


@dataclass(frozen=True)
class SegmentRecord:
    """What the manifest says about a segment; `files` maps a name to its committed length and CRC-32."""

    name: str
    rows: int = 0
    tokens: int = 0
    max_norm: float = 0.0
    max_residual: float = 0.0  # largest distance between a global embedding and its int8 copy
    files: dict[str, list[int]] = field(default_factory=dict)


class Segment:
    """Read-only view of a segment at one commit.

    Args:
        root: Directory of the gallery.
        record: Committed state of the segment.
        layout: What its rows look like.
    """

    def __init__(self, root: Path, record: SegmentRecord, layout: RowLayout) -> None:
        self.root = root
        self.record = record
        self.globals = self._map("globals.f32", np.float32, (record.rows, layout.global_columns))
        self.codes = self._map("codes.i8", np.int8, (record.rows, layout.global_dim))
        self.code_scales = self._map("codes.scale", np.float32, (record.rows, 2))
        self.bias = self._map("bias.f32", np.float32, (record.rows,)) if layout.has_bias else None
        token_dtype, scaled = layout.token_dtype, layout.token_dtype in SCALED_DTYPES
        self.store = TokenStore(
            rows=self._map("tokens", STORAGE_DTYPES[token_dtype], (record.tokens, layout.dim)),
            scales=self._map("tokens.scale", np.float32, (record.tokens, 2)) if scaled else None,
            offsets=self._map("offsets.i64", np.int64, (record.rows + 1,)),
            token_dtype=token_dtype,
            bits=self._map("tokens.bits", np.uint8, (record.tokens, bits_width(layout.dim)))
            if layout.has_bits
            else None,
        )
        self._check_offsets()
        self._table_file = self._map("rows.arrow", np.uint8, (record.files.get("rows.arrow", [0])[0],))

    def __len__(self) -> int:
        return self.record.rows

    @cached_property
    def table(self) -> Any:
        """Arrow table with column `id` and one column `meta:<key>` per metadata key."""
        try:
            table = pa.concat_tables(list(_read_streams(self._table_file)), promote_options="permissive")
            _check_table(table, len(self))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"Segment {self.record.name!r}: rows.arrow is damaged ({error}). {RESTORE}") from error
        return table

    @property
    def commits(self) -> int:
        """Number of commits that the segment holds."""
        return sum(1 for _ in _read_streams(self._table_file))

    @cached_property
    def ids(self) -> Any:
        """Arrow array of the ids (large_string), row order."""
        return self.table.column("id").combine_chunks()

    @cached_property
    def _id_buffers(self) -> tuple[np.ndarray, memoryview]:
        _, offsets, data = self.ids.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[self.ids.offset :]
        return ends, memoryview(data if data is not None else b"")

    def id_of(self, row: int) -> str:
        """Id of one row; for the few rows of a result this is much faster than Arrow's `take`."""
        ends, data = self._id_buffers
        return str(data[ends[row] : ends[row + 1]], "utf-8")

    @staticmethod
    def damage(root: Path, record: SegmentRecord) -> list[str]:
        """Return one line per file that is missing, short, or differs from its checksum."""
        problems = []
        for name, (length, crc) in record.files.items():
            checksum = file_crc(root, f"{record.name}/{name}", length)
            if checksum is None:
                problems.append(f"segment {record.name!r}: {name} is missing or shorter than {length} bytes")
            elif checksum != crc:
                problems.append(f"segment {record.name!r}: {name} is damaged (checksum differs)")
        return problems

    def _check_offsets(self) -> None:
        offsets = self.store.offsets  # the kernel trusts them
        if offsets[0] != 0 or offsets[-1] != self.record.tokens or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"Segment {self.record.name!r}: offsets.i64 is damaged. {RESTORE}")

    def _map(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        try:
            return map_inside(self.root, f"{self.record.name}/{name}", dtype, shape)
        except ValueError as error:
            raise ValueError(f"Segment {self.record.name!r}: {error}. {RESTORE}") from error


def append_to_segment(root: Path, record: SegmentRecord, batch: Batch) -> SegmentRecord:
    """Append items to the files of a segment and sync them; the caller commits the returned record.

    Args:
        root: Directory of the gallery.
        record: Committed state; bytes behind it are overwritten.
        batch: The items, at least one.

    Returns:
        The record after the append.
    """
    path = root / record.name
    path.mkdir(exist_ok=True)
    ends = record.tokens + np.cumsum(batch.counts, dtype=np.int64)
    chunks: dict[str, list[Any]] = {
        "globals.f32": [batch.globals],
        "codes.i8": [batch.codes],
        "codes.scale": [batch.code_scales],
        "tokens": [batch.tokens],
        "offsets.i64": [ends] if record.rows else [np.zeros(1, dtype=np.int64), ends],
        "rows.arrow": [_table_bytes(batch.table)],
    }
    if batch.token_scales is not None:
        chunks["tokens.scale"] = [batch.token_scales]
    if batch.bits is not None:
        chunks["tokens.bits"] = [batch.bits]
    dim = batch.codes.shape[1]
    if dim < batch.globals.shape[1]:
        chunks["bias.f32"] = [np.ascontiguousarray(batch.globals[:, dim])]
    files = {
        name: append_bytes(root, f"{record.name}/{name}", record.files.get(name, [0, 0]), chunk)
        for name, chunk in chunks.items()
    }
    sync_directory(path)
    residual = batch.globals[:, :dim] - batch.codes * batch.code_scales[:, :1]
    return replace(
        record,
        rows=record.rows + len(batch),
        tokens=record.tokens + len(batch.tokens),
        max_norm=max(record.max_norm, float(np.linalg.norm(batch.globals, axis=1).max())),
        max_residual=max(record.max_residual, float(np.linalg.norm(residual, axis=1).max())),
        files=files,
    )


def select_rows(segment: Segment, rows: np.ndarray) -> Batch:
    """Copy rows of a segment, bit for bit, as a batch."""
    store, starts = segment.store, segment.store.offsets[rows]
    counts = segment.store.offsets[rows + 1] - starts
    tokens = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return Batch(
        table=segment.table.take(pa.array(rows)),
        globals=segment.globals[rows],
        codes=segment.codes[rows],
        code_scales=segment.code_scales[rows],
        tokens=store.rows[tokens],
        token_scales=None if store.scales is None else store.scales[tokens],
        counts=counts,
        bits=None if store.bits is None else store.bits[tokens],
    )


def _table_bytes(table: Any) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _check_table(table: Any, rows: int) -> None:
    """Raise ValueError for a table that no gallery wrote: the search takes its rows and types for granted."""
    names = table.schema.names
    if len(table) != rows:
        raise ValueError(f"{len(table)} rows instead of {rows}")
    if "id" not in names or len(set(names)) < len(names):
        raise ValueError(f"columns {names[:9]!r} instead of one `id` and one per metadata key")
    if table.schema.field("id").type != pa.large_string() or table.column("id").null_count:
        raise ValueError(f"ids of type {table.schema.field('id').type} with {table.column('id').null_count} missing")
    check_types(table.schema)


def _read_streams(raw: np.ndarray) -> Iterator[Any]:
    source = pa.BufferReader(pa.py_buffer(raw))
    while source.tell() < len(raw):
        table = pa.ipc.open_stream(source).read_all()
        table.validate(full=True)
        yield wide_table(table)
