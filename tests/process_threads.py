# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The processes of a launch as threads of one, for tests of what they do together."""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from modeling_tgdt.gallery.processes import ProcessGroup


class Meetings:
    """What the threads have brought to each of their meetings; one that failed comes to no more."""

    def __init__(self) -> None:
        self.brought: dict[int, dict[int, Any]] = defaultdict(dict)
        self.changed, self.failed = Condition(), False


@dataclass(frozen=True)
class ThreadGroup(ProcessGroup):
    """One of several threads."""

    meetings: Meetings
    been: list[int] = field(default_factory=lambda: [0])

    def gather(self, value: Any) -> list[Any]:
        with self.meetings.changed:
            met = self.meetings.brought[self.been[0]]
            self.been[0] += 1
            met[self.rank] = value
            self.meetings.changed.notify_all()
            self.meetings.changed.wait_for(lambda: len(met) == self.size or self.meetings.failed, 20)
            if len(met) < self.size:
                raise RuntimeError("another process has died")
            return [met[rank] for rank in range(self.size)]


def in_processes(size: int, work: Callable[[ThreadGroup], Any]) -> list[Any]:
    """Run a function in every process of a group; return what each returned or raised, by rank."""
    meetings = Meetings()

    def run(rank: int) -> Any:
        try:
            return work(ThreadGroup(rank, size, meetings))
        except Exception as error:
            with meetings.changed:
                meetings.failed = True
                meetings.changed.notify_all()
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
