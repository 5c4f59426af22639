# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What one process of a group adds to a gallery: segments that no reader sees before a writer adopts them.

A file `part-*.json` lists the segments that a process has finished and is replaced with every append, so that a
process that dies loses no more than a single writer would.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .metadata import merged_schema
from .segment import Batch, SegmentRecord, append_to_segment
from .storage import clear_os_errors, read_json, replace_json, sync_directory

PART = r"part-[0-9a-f]{12}\.(json|tmp)"  # the second where a process died while it replaced the first


def new_record() -> SegmentRecord:
    """Return the record of a segment that is still empty."""
    return SegmentRecord(f"segment-{uuid.uuid4().hex[:12]}")


class Part:
    """The segments of one process.

    Args:
        root: Directory of the gallery.
        segment_rows: A new segment starts when the last one holds this many items.
        schema: Of the metadata that the gallery has already.
    """

    def __init__(self, root: Path, segment_rows: int, schema: Any) -> None:
        self.root, self.segment_rows, self.schema = root, segment_rows, schema
        self.path = root / f"part-{uuid.uuid4().hex[:12]}.json"
        self.records: list[SegmentRecord] = []

    def append(self, batch: Batch) -> None:
        """Store items durably, to be adopted later.

        Args:
            batch: The items, at least one.

        Raises:
            TypeError: When a metadata key changes its type.
            OSError: When the disk is full or read-only.
        """
        schema = merged_schema(self.schema, batch.table)
        *closed, last = self.records or (new_record(),)
        if last.rows >= self.segment_rows:
            closed, last = [*closed, last], new_record()
        with clear_os_errors(self.root, "add to"):
            records = [*closed, append_to_segment(self.root, last, batch)]
            sync_directory(self.root)  # the segment's name must be durable before the list that refers to it
            replace_json(self.path, {"segments": [asdict(record) for record in records]})
        self.records, self.schema = records, schema


def read_parts(root: Path) -> list[SegmentRecord]:
    """Read the finished segments of all parts in a gallery's directory.

    Raises:
        ValueError: When a list is damaged.
    """
    records: list[SegmentRecord] = []
    for path in sorted(root.glob("part-*.json")):
        try:
            records += [SegmentRecord(**record) for record in read_json(path)["segments"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} is not a list of segments that tgdt wrote: {error}. Remove it to go on."
            ) from error
    return records
