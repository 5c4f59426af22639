# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""One segment of a gallery: append-only files, memory-mapped up to their committed length.

globals.f32     (N, D)   global embeddings
codes.i8        (N, D)   the same in int8, read by the exact scan
codes.scale     (N, 2)   float32: scale and sum of the codes of each row
tokens          (T, D)   token rows of all items, one after another, in the token dtype
tokens.scale    (T, 2)   float32, scaled token dtypes only
offsets.i64     (N + 1)  first token row of each item, and the end
rows.arrow      N rows   ids and metadata: Arrow IPC streams, one per commit
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels.quantize import SCALED_DTYPES, STORAGE_DTYPES, encode_tokens, quantize_int8
from ..kernels.ragged import TokenStore
from .metadata import wide_table
from .storage import append_bytes, file_crc, sync_directory

try:
    import pyarrow as pa
except ImportError:  # datasets brings it; a converted model alone does not need it
    pa = None


RESTORE = "Restore the file from a copy, or build the gallery again."


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

    def __len__(self) -> int:
        return len(self.globals)


def encode_batch(table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray, token_dtype: str) -> Batch:
    """Encode items: Arrow table of N rows, (N, D) and (sum of counts, D) float32, counts (N,)."""
    return Batch(table, globals_, *quantize_int8(globals_), *encode_tokens(tokens, token_dtype), counts)


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
        dim: D.
        token_dtype: A key of `STORAGE_DTYPES`.
    """

    def __init__(self, root: Path, record: SegmentRecord, dim: int, token_dtype: str) -> None:
        self.path = root / record.name
        self.record = record
        self.globals = self._map("globals.f32", np.float32, (record.rows, dim))
        self.codes = self._map("codes.i8", np.int8, (record.rows, dim))
        self.code_scales = self._map("codes.scale", np.float32, (record.rows, 2))
        scaled = token_dtype in SCALED_DTYPES
        self.store = TokenStore(
            rows=self._map("tokens", STORAGE_DTYPES[token_dtype], (record.tokens, dim)),
            scales=self._map("tokens.scale", np.float32, (record.tokens, 2)) if scaled else None,
            offsets=self._map("offsets.i64", np.int64, (record.rows + 1,)),
            token_dtype=token_dtype,
        )
        self._check_offsets()
        self._table_file = self._map("rows.arrow", np.uint8, (record.files.get("rows.arrow", [0])[0],))

    def __len__(self) -> int:
        return self.record.rows

    @cached_property
    def table(self) -> Any:
        """Arrow table with column `id` and one column `meta:<key>` per metadata key."""
        try:
            streams = [wide_table(stream) for stream in _read_streams(self._table_file)]
            table = pa.concat_tables(streams, promote_options="permissive")
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"segment {self.record.name!r}: rows.arrow is damaged ({error}). {RESTORE}") from error
        return table

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
            found = file_crc(root / record.name / name, length)
            if found is None:
                problems.append(f"segment {record.name!r}: {name} is missing or shorter than {length} bytes")
            elif found != crc:
                problems.append(f"segment {record.name!r}: {name} is damaged (checksum differs)")
        return problems

    def _check_offsets(self) -> None:
        offsets = self.store.offsets  # the kernel trusts them
        if offsets[0] != 0 or offsets[-1] != self.record.tokens or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"segment {self.record.name!r}: offsets.i64 is damaged. {RESTORE}")

    def _map(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size == 0:
            return np.zeros(shape, dtype=dtype)
        path = self.path / name
        if path.stat().st_size < size:
            raise ValueError(f"segment {self.record.name!r}: {name} is shorter than its {size} bytes. {RESTORE}")
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


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
    files = {name: append_bytes(path / name, record.files.get(name, [0, 0]), c) for name, c in chunks.items()}
    sync_directory(path)
    residual = batch.globals - batch.codes * batch.code_scales[:, :1]
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
    )


def _table_bytes(table: Any) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _read_streams(raw: np.ndarray) -> Iterator[Any]:
    source = pa.BufferReader(pa.py_buffer(raw))
    while source.tell() < len(raw):
        yield pa.ipc.open_stream(source).read_all()
