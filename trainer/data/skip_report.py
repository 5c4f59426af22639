# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""List of what was left out of a data set, and why."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from modeling_tgdt.retriever.temporary import own_prefix


class SkipReport:
    """Collect (id, why) of unreadable items from any thread, data-loader worker or process of this machine.

    Data-loader workers are processes of their own, so the list lives in a file that every copy of this object appends
    to, removed with the first; one appended line is one write, which the operating system keeps whole.

    Example:
        >>> report = SkipReport()
        >>> report.add("photo-7", "the file is empty")
        >>> report.items
        [('photo-7', 'the file is empty')]
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix=own_prefix("skipped"), suffix=".jsonl")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def add(self, item_id: str, why: str) -> None:
        """Add one item; repeats of an id are counted once.

        Args:
            item_id: Photo id or file name.
            why: What is wrong, for a person.
        """
        line = json.dumps([str(item_id), why]) + "\n"  # ASCII: names of files may not be valid Unicode
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    @property
    def items(self) -> list[tuple[str, str]]:
        """Pairs (id, why) in order of discovery, each id once."""
        reasons: dict[str, str] = {}
        for line in filter(None, self.path.read_text(encoding="utf-8").split("\n")):
            item_id, why = json.loads(line)
            reasons.setdefault(item_id, why)
        return list(reasons.items())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __bool__(self) -> bool:
        return True  # an empty report is still a report: `report or SkipReport()` must not replace it

    def summary(self, shown: int = 3) -> str:
        """Return one line: how many items were left out, and the first few of them.

        Args:
            shown: How many items to spell out.
        """
        items = self.items
        if not items:
            return "0 items skipped"
        first = "; ".join(f"{item_id}: {why}" for item_id, why in items[:shown])
        return f"{len(items)} items skipped ({first}{'; ...' if len(items) > shown else ''})"


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # forked workers inherit the finaliser but not the file
        path.unlink(missing_ok=True)
