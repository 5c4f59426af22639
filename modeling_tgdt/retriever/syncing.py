# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery made equal to a folder again: what is new, changed, renamed or gone since the last time, and nothing else.

A Parquet file beside the gallery says of every picture which content the gallery has: size, time and a hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..gallery.plain_files import read_inside, replacing
from ..gallery.processes import process_group
from ..image_loading_tgdt import read_regular_file
from ..index_tgdt import TGDTIndex
from .filling import AddReport
from .picture_sources import list_pictures

RECORD = "pictures.parquet"
_SCHEMA = pa.schema({"name": pa.string(), "size": pa.int64(), "time": pa.int64(), "digest": pa.binary()})


@dataclass(frozen=True)
class Content:
    """What a picture's file held: bytes, time of its last change in nanoseconds, and a hash; None: unreadable."""

    size: int
    time: int
    digest: bytes | None


@dataclass
class SyncReport:
    """What a synchronisation did.

    Attributes:
        new: Pictures that were not there.
        changed: Pictures whose content was another.
        renamed: Pictures whose content was there under a name that is gone; they were not embedded again.
        deleted: Items whose picture is gone, the renamed ones left out.
        unchanged: The other pictures.
        embedded: What of all this was read and embedded, with the pictures that were skipped.
    """

    new: int
    changed: int
    renamed: int
    deleted: int
    unchanged: int
    embedded: AddReport


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        contents: Every picture of the folder.
        fresh: Pictures to embed.
        copies: Name of a picture to the item that has its content.
        gone: Items without a picture.
        left_out: The folder's other files, and why they are not pictures.
    """

    contents: dict[str, Content] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def plan_sync(folder: Path, known: Mapping[str, Content], index: TGDTIndex) -> Plan:
    """Compare a folder with a gallery.

    Files of the size and time that are known are not read.

    Args:
        folder: The pictures.
        known: Contents that the gallery was made of.
        index: The gallery.
    """
    plan, items = Plan(), set(index)
    known = {name: content for name, content in known.items() if name in items}
    for name, path in list_pictures(folder, plan.left_out):
        content = _content(path, known.get(name))
        if content is None:
            continue
        plan.contents[name] = content
        if name not in known or content.digest is None or content.digest != known[name].digest:
            plan.fresh.append(name)
    named = {content.digest: name for name, content in known.items() if content.digest is not None}
    digests = {name: plan.contents[name].digest for name in plan.fresh}
    plan.copies = {name: named[digest] for name, digest in digests.items() if digest in named}
    plan.fresh = [name for name in plan.fresh if name not in plan.copies]
    plan.gone = sorted(items - plan.contents.keys())
    return plan


def sync_folder(
    retriever: Any,
    folder: str | os.PathLike[str],
    record: Path,
    metadata: Callable[[str], Mapping[str, Any]] | None = None,
    **options: Any,
) -> SyncReport:
    """Make a gallery equal to a folder, in a time that follows from what changed.

    What was embedded is kept when the run is interrupted. Items without a picture in the folder are deleted, those of
    other folders too. In a launch of several processes each makes this call, and they share what is to be embedded.

    Args:
        retriever: TGDTRetriever with a gallery of pictures.
        folder: The pictures; their relative paths are the ids.
        record: File that says what the gallery was made of; made when missing, and everything is then embedded again.
        metadata: Tells the metadata of a picture that is embedded; renamed ones keep theirs.
        **options: Of `add_images`: `batch_size`, `on_error`, `workers`, `progress`, `max_pixels`.

    Returns:
        What was done.
    """
    index, folder, group = retriever.index, Path(folder), process_group()
    known = read_record(record)
    planned = plan_sync(folder, known, index) if group is None or group.rank == 0 else Plan()
    plan = planned if group is None else group.gather(planned)[0]
    before = set(index)
    work = _Work(index, plan, record, known, before)
    work.begin() if group is None else group.first(work.begin)
    paths, rows = [folder / name for name in plan.fresh], None if metadata is None else map(metadata, plan.fresh)
    report = retriever.add_images(paths, list(plan.fresh), rows, **options)
    work.skipped = [name for name, _ in report.skipped]
    work.end() if group is None else group.first(work.end)
    index.refresh()
    report.leave_out(plan.left_out)
    renamed = set(plan.copies.values()) & set(plan.gone)
    new = len([name for name in (*plan.fresh, *plan.copies) if name not in before]) - len(renamed)
    changed = len([name for name in (*plan.fresh, *plan.copies) if name in before])
    unchanged = len(plan.contents) - len(plan.fresh) - len(plan.copies)
    return SyncReport(new, changed, len(renamed), len(plan.gone) - len(renamed), unchanged, report)


@dataclass
class _Work:
    """What one process does before and after all have embedded.

    The record may name what is not in the gallery yet, and never another content than the gallery has: so that an
    interrupted run goes on where it was.
    """

    index: TGDTIndex
    plan: Plan
    record: Path
    known: Mapping[str, Content]
    before: set[str]
    skipped: list[str] = field(default_factory=list)

    def begin(self) -> None:
        changing = self.before & {*self.plan.fresh, *self.plan.copies}
        gone = {name: self.known[name] for name in self.plan.gone if name in self.known}
        contents = {**gone, **self.plan.contents}
        write_record(self.record, {name: content for name, content in contents.items() if name not in changing})
        with self.index:
            if self.plan.copies:
                self.index.copy(list(self.plan.copies.values()), list(self.plan.copies))
            self.index.delete(self.plan.gone, missing_ok=True)

    def end(self) -> None:
        with self.index:
            self.index.delete(list(dict.fromkeys(self.skipped)), missing_ok=True)
        write_record(self.record, self.plan.contents)


def read_record(path: Path) -> dict[str, Content]:
    """Read which contents a gallery was made of; empty when there is no such file.

    Raises:
        ValueError: When the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        with read_inside(path.parent, path.name) as file:
            rows = pq.read_table(file, schema=_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged ({error}). Remove it, and everything is embedded again."
        ) from error
    return {row["name"]: Content(row["size"], row["time"], row["digest"]) for row in rows}


def write_record(path: Path, contents: Mapping[str, Content]) -> None:
    """Replace the file that says which contents a gallery was made of; names that are not Unicode cannot be ids."""
    contents = {name: content for name, content in contents.items() if _is_unicode(name)}
    columns = [
        list(contents),
        *zip(*((content.size, content.time, content.digest) for content in contents.values()), strict=True),
    ]
    table = pa.table(columns, schema=_SCHEMA) if contents else _SCHEMA.empty_table()
    with replacing(path) as file:
        pq.write_table(table, file)


def _is_unicode(name: str) -> bool:
    """Tell whether a file's name can be an id: not where it has bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path, known: Content | None) -> Content | None:
    """Look at a file, which is read only where size or time are new; None when it has gone meanwhile."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return Content(0, 0, None)
    if known is not None and (known.size, known.time) == (status.st_size, status.st_mtime_ns):
        return known
    try:
        digest = hashlib.blake2b(read_regular_file(path), digest_size=16).digest()
    except (OSError, ValueError):  # told when it is embedded
        digest = None
    return Content(status.st_size, status.st_mtime_ns, digest)


__all__ = ["RECORD", "Content", "Plan", "SyncReport", "plan_sync", "read_record", "sync_folder", "write_record"]
