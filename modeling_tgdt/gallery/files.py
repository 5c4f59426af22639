# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The files of a gallery as a whole: snapshots for readers, commits of the one writer.

    manifest.json     format version, settings, and the committed length and CRC-32 of every file
    segment-*/        see `segment.py`
    deleted-*.i64     row numbers deleted since the last compaction, appended
    engine-*.bin      a stage-one engine's file, when it has one
    part-*.json       what a process of a group has finished and no commit adopted yet, see `parts.py`
    qdrant*/          the data of engine "qdrant" when it is embedded, instead of segments
    writer.lock       held by the writer's process

A commit appends to files behind their committed length, syncs them, and replaces the manifest. Until the replacement
the old state holds, so a crash at any byte loses nothing; the next writer overwrites what was left behind.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .manifest import MANIFEST, Manifest, is_own_name
from .metadata import merged_schema
from .parts import Part, new_record, read_parts
from .plain_files import read_inside
from .segment import RESTORE, Batch, Segment, SegmentRecord, append_to_segment, select_rows
from .storage import WriterLock, append_bytes, clear_os_errors, file_crc, sync_directory
from .twins import Twins

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    pa = pc = None

_COMPACT_BYTES = 1 << 26
_SMALL_COMMITS, _JOINED_ROWS = 64, 1 << 12  # a segment of so many commits is joined; of so many rows, it is left alone


class Snapshot:
    """Everything a reader needs, fixed at one commit; later commits never change it."""

    def __init__(self, root: Path, manifest: Manifest, previous: Snapshot | None = None) -> None:
        self.root = root
        self.manifest = manifest
        known = {segment.record.name: segment for segment in previous.segments} if previous else {}
        self.segments: list[Segment] = [
            known[record.name]
            if record.name in known and known[record.name].record == record
            else Segment(root, record, manifest.layout)
            for record in manifest.segments
        ]
        self.bases = np.concatenate([[0], np.cumsum([len(s) for s in self.segments])]).astype(np.int64)
        self.alive = np.ones(self.bases[-1], dtype=bool)
        for name, (length, _) in manifest.deleted.items():
            with read_inside(root, name) as file:
                data = file.read(length)
            rows = np.frombuffer(data[: len(data) // 8 * 8], dtype=np.int64)
            if len(data) < length or length % 8 or not ((rows >= 0) & (rows < len(self.alive))).all():
                raise ValueError(f"{name} in {str(root)!r} is damaged. {RESTORE}")
            self.alive[rows] = False
        self.size = int(self.alive.sum())
        self.twins: Twins | None = None  # of an exact search that met very many equal scores

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row number of each id."""
        row_of_id: dict[str, int] = {}
        for base, segment in zip(self.bases, self.segments, strict=False):
            row_of_id.update(zip(segment.ids.to_pylist(), range(base, base + len(segment)), strict=True))
        if self.size < len(self.alive):
            row_of_id = {name: row for name, row in row_of_id.items() if self.alive[row]}
        if len(row_of_id) != self.size:
            raise ValueError(f"rows.arrow in {str(self.root)!r} gives an id to several items. {RESTORE}")
        return row_of_id

    @cached_property
    def id_ranks(self) -> np.ndarray:
        """Place of every row in the order of the ids (rows,) int64; built when very many scores are equal."""
        ids = pa.chunked_array([segment.ids for segment in self.segments], pa.large_string())
        ranks = np.empty(len(ids), dtype=np.int64)
        ranks[np.asarray(pc.sort_indices(ids))] = np.arange(len(ids))
        return ranks

    @cached_property
    def schema(self) -> Any:
        """Arrow schema of ids and metadata over all segments."""
        schemas = [segment.table.schema for segment in self.segments]
        return pa.unify_schemas([pa.schema([("id", pa.string())]), *schemas], promote_options="permissive")

    def take(self, rows: np.ndarray) -> Any:
        """Arrow table of ids and metadata of rows, in their order."""
        numbers = np.searchsorted(self.bases, rows, side="right") - 1
        parts, taken = [self.schema.empty_table()], []
        for number in np.unique(numbers):
            positions = np.flatnonzero(numbers == number)
            parts.append(self.segments[number].table.take(pa.array(rows[positions] - self.bases[number])))
            taken.append(positions)
        order = np.argsort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)
        return pa.concat_tables(parts, promote_options="permissive").take(pa.array(order))

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of rows, in their order."""
        numbers = np.searchsorted(self.bases, rows, side="right") - 1
        items = rows - self.bases[numbers]
        return [self.segments[n].id_of(i) for n, i in zip(numbers.tolist(), items.tolist(), strict=True)]


def _refuse_second(root: Path) -> None:
    if (root / MANIFEST).exists():
        raise FileExistsError(f"{str(root)!r} already holds a gallery. Use open(), or remove it first.")


class GalleryFiles:
    """Reads snapshots and commits changes; knows rows and files, not similarity.

    Args:
        root: Directory with a manifest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = WriterLock(root)
        self._commits: dict[str, int] = {}  # how many each segment holds, as far as that was asked
        self.part: Part | None = None  # takes what is appended while this is one process of a group
        self.snapshot = self._load()

    @classmethod
    def create(cls, root: Path, settings: dict[str, Any]) -> GalleryFiles:
        """Make an empty gallery in a directory that has none."""
        with clear_os_errors(root, "create a gallery in"):
            root.mkdir(parents=True, exist_ok=True)
            _refuse_second(root)
            lock = WriterLock(root)
            lock.acquire()
            try:
                _refuse_second(root)  # another process may have been faster
                Manifest(settings).write(root)
            finally:
                lock.release()
        return cls(root)

    def refresh(self) -> bool:
        """Move to the newest commit; return whether there was one."""
        before, newest = self.snapshot, self._load(self.snapshot)
        if newest.manifest.settings != before.manifest.settings:
            raise ValueError(f"The gallery in {str(self.root)!r} was replaced by another one. Open it anew.")
        self.snapshot = newest
        return newest.manifest != before.manifest

    def append(self, ids: list[str], batch: Batch) -> None:
        """Commit new items; earlier items of the same ids are deleted in the same commit.

        Between `join` and `leave` they go into this process's part instead.
        """
        if self.part is not None:
            self.part.append(batch)
            return
        with self._write("add to"):
            snapshot, manifest = self.snapshot, self.snapshot.manifest
            schema = merged_schema(snapshot.schema, batch.table)
            old = [snapshot.row_of[name] for name in ids if name in snapshot.row_of]
            closed, record = self._room()
            record = append_to_segment(self.root, record, batch)
            self._commit(replace(manifest, segments=(*closed, record), deleted=self._log_deleted(old)))
            self._commits[record.name] = self._commits.get(record.name, 0) + 1
            first = int(self.snapshot.bases[-1]) - len(batch)
            snapshot.row_of.update(zip(ids, range(first, first + len(batch)), strict=True))
            self._hand_over(snapshot, schema)

    def delete(self, rows: dict[str, int]) -> None:
        """Commit the deletion of rows, given by id."""
        with self._write("delete from"):
            snapshot = self.snapshot
            self._commit(replace(snapshot.manifest, deleted=self._log_deleted(list(rows.values()))))
            for name in rows:
                del snapshot.row_of[name]
            self._hand_over(snapshot, snapshot.schema)

    def compact(self) -> None:
        """Rewrite the living rows into fresh segments. The old files stay for open readers until the next writer."""
        with self._write("compact"):
            self._remove_orphans()
            limit = self.snapshot.manifest.settings["segment_rows"]
            records: list[SegmentRecord] = []
            for batch in self._living_batches():
                if not records or records[-1].rows >= limit:
                    records.append(new_record())
                records[-1] = append_to_segment(self.root, records[-1], batch)
            self._commit(Manifest(self.snapshot.manifest.settings, self.snapshot.manifest.commit, tuple(records)))

    def set_engine_files(self, files: dict[str, list[int]]) -> None:
        """Commit the files of the stage-one engine, already written and synced."""
        with self._write("store the engine of"):
            self._commit(replace(self.snapshot.manifest, engine_files=files))

    def verify(self) -> list[str]:
        """Compare every committed byte with its checksum; return one line per damage."""
        manifest = Manifest.read(self.root)
        problems = [line for record in manifest.segments for line in Segment.damage(self.root, record)]
        for name, (length, crc) in {**manifest.deleted, **manifest.engine_files}.items():
            if file_crc(self.root, name, length) != crc:
                problems.append(f"{name} is damaged, shorter or missing")
        return problems

    def join(self, first: bool = False) -> None:
        """Write as one process of a group from now on.

        Args:
            first: Whether this is the one that joins before all others; it becomes the writer.
        """
        if first:
            self.begin()
        self.lock.acquire(shared=True)
        self.refresh()
        self.part = Part(self.root, self.snapshot.manifest.settings["segment_rows"], self.snapshot.schema)

    def leave(self) -> None:
        """Have finished a part. Once all have, the first process's `begin` makes their parts visible in one commit."""
        self.part = None
        self.lock.release()

    def begin(self) -> None:
        """Become the writer and adopt the parts of a group that has finished or died.

        Raises:
            RuntimeError: When another writer is at work.
            TypeError: When the metadata of a part does not fit; the other parts are adopted.
        """
        if self.part is not None:
            return
        if (self.root / MANIFEST).is_symlink():
            raise OSError(
                f"{str(self.root)!r} is a download cache made of links; copy the gallery before writing to it."
            )
        if self.lock.acquire():
            try:
                self.refresh()
                self._adopt_parts()
                self._remove_orphans()
            except BaseException:  # the next attempt must see the newest commit too
                self.lock.release()
                raise

    def _room(self) -> tuple[list[SegmentRecord], SegmentRecord]:
        """Return the segments that stay, and the one to append to.

        Ids and metadata of many small commits are slow to read, so a segment of them is written anew as one; rows keep
        their numbers. The old files stay for open readers until the next time.
        """
        manifest = self.snapshot.manifest
        if not manifest.segments:
            return [], new_record()
        *closed, last = manifest.segments
        segment = self.snapshot.segments[-1]
        commits = self._commits.setdefault(last.name, segment.commits)
        if commits >= _SMALL_COMMITS and last.rows < 2 * _JOINED_ROWS:
            self._remove_orphans()
            last = append_to_segment(self.root, new_record(), select_rows(segment, np.arange(last.rows)))
            self._commits[last.name] = 1
        full = last.rows >= manifest.settings["segment_rows"]
        if full or (commits >= _SMALL_COMMITS and last.rows >= _JOINED_ROWS):
            return [*closed, last], new_record()
        return closed, last

    def _adopt_parts(self) -> None:
        manifest = self.snapshot.manifest
        known = {record.name for record in manifest.segments}
        records = tuple(record for record in read_parts(self.root) if record.name not in known)
        if not records:
            return
        Manifest(manifest.settings, segments=records).check()
        schema, rows, fitting, error = self.snapshot.schema, dict(self.snapshot.row_of), [], None
        size, replaced = len(self.snapshot.alive), list[int]()
        for record in records:
            segment = Segment(self.root, record, manifest.layout)
            try:
                schema = merged_schema(schema, segment.table)
            except TypeError as refused:
                error = refused
                continue
            for row, name in enumerate(segment.ids.to_pylist(), start=size):
                replaced += [rows[name]] if name in rows else []
                rows[name] = row
            size += len(segment)
            fitting.append(record)
        segments = (*manifest.segments, *fitting)
        self._commit(replace(manifest, segments=segments, deleted=self._log_deleted(replaced)))
        if error is not None:
            self._remove_orphans()
            raise error

    @contextlib.contextmanager
    def _write(self, action: str) -> Iterator[None]:
        if self.part is not None:
            raise RuntimeError(f"Cannot {action} {str(self.root)!r} while a group of processes fills it.")
        with clear_os_errors(self.root, action):
            self.begin()
            try:
                yield
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # best effort: give the space back after a full disk
            self.refresh()
            self._remove_orphans()
            for record in self.snapshot.manifest.segments:
                for name, (length, _) in record.files.items():
                    if (self.root / record.name / name).stat().st_size > length:
                        append_bytes(self.root, f"{record.name}/{name}", [length, 0], [])

    def _commit(self, manifest: Manifest) -> None:
        manifest = replace(manifest, commit=manifest.commit + 1)
        if manifest.file_names() != self.snapshot.manifest.file_names():
            sync_directory(self.root)  # the new names must be durable before the manifest that refers to them
        manifest.write(self.root)
        self.snapshot = Snapshot(self.root, manifest, self.snapshot)

    def _hand_over(self, old: Snapshot, schema: Any) -> None:
        # cached_property values live in __dict__: the new snapshot starts with what the commit already knows
        self.snapshot.__dict__.update(row_of=old.__dict__.pop("row_of"), schema=schema)

    def _log_deleted(self, rows: list[int]) -> dict[str, list[int]]:
        known = self.snapshot.manifest.deleted
        if not rows:
            return known
        name = next(iter(known), f"deleted-{uuid.uuid4().hex[:12]}.i64")
        data = np.array(rows, dtype=np.int64)
        return {name: append_bytes(self.root, name, known.get(name, [0, 0]), [data])}

    def _living_batches(self) -> Iterator[Batch]:
        settings = self.snapshot.manifest.settings
        for base, segment in zip(self.snapshot.bases, self.snapshot.segments, strict=False):
            rows = np.flatnonzero(self.snapshot.alive[base : base + len(segment)])
            items = max(len(segment), 1)
            row_bytes = 4 * settings["dim"] * (2 + segment.record.tokens // items) + segment.table.nbytes // items
            step = max(1, min(_COMPACT_BYTES // row_bytes, settings["segment_rows"]))
            for start in range(0, len(rows), step):
                yield select_rows(segment, rows[start : start + step])

    def _remove_orphans(self) -> None:
        keep = self.snapshot.manifest.file_names()
        for path in list(self.root.iterdir()):
            if is_own_name(path.name) and path.name not in keep:
                with contextlib.suppress(PermissionError):  # Windows keeps what is mapped; the next writer tries
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _load(self, known: Snapshot | None = None) -> Snapshot:
        for attempt in range(5):  # a compaction may remove files between the manifest and the mapping
            try:
                manifest = Manifest.read(self.root)
                return known if known and known.manifest == manifest else Snapshot(self.root, manifest, known)
            except FileNotFoundError:
                if attempt == 4 or not (self.root / MANIFEST).exists():
                    raise
                time.sleep(0.01)
        raise AssertionError("The last attempt returns or raises.")
