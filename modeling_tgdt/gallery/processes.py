# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The processes of a launch (`torchrun`, `accelerate launch`, ...) as seen by what they do together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import distributed as dist

from .backend import Backend


@dataclass(frozen=True)
class ProcessGroup:
    """All processes of `torch.distributed`; every method is called by each of them.

    Attributes:
        rank: Number of this process.
        size: How many there are.
    """

    rank: int
    size: int

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank, once all have come."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def owns(self, number: int) -> bool:
        """Tell whether a piece of work is this process's: pieces are dealt like cards."""
        return number % self.size == self.rank

    def first(self, work: Callable[[], Any]) -> None:
        """Let the first process do something while the others wait; its error is raised by all of them."""
        error = None
        if self.rank == 0:
            try:
                work()
            except Exception as raised:
                error = raised
        error = self.gather(error)[0]
        if error is not None:
            raise error


def process_group() -> ProcessGroup | None:
    """Return the processes of this launch; None where there is one only, or `torch.distributed` was not set up."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


@contextmanager
def written_together(backend: Backend, group: ProcessGroup | None) -> Iterator[None]:
    """Let every process add items, which one commit shows in the end; see `TGDTIndex.filled_by`.

    Args:
        backend: The gallery, as this process opened it.
        group: The processes; None for this one alone, which commits every addition.
    """
    if group is None:
        try:
            yield
        finally:
            backend.close()
        return
    group.first(partial(backend.join, first=True))
    if group.rank:
        backend.join()
    group.gather(None)  # the lock is everyone's before anybody can leave
    try:
        yield
    finally:
        backend.leave()
    group.gather(None)  # everyone has left before the first takes what they stored over
    group.first(backend.begin)
    backend.close()
    backend.refresh()
