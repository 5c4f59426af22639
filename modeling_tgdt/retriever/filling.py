# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A stream of items into a gallery: prepared in threads, encoded in batches, committed every few seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, repeat
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ..encoding_tgdt import Embeddings
from ..gallery.processes import ProcessGroup
from ..index_tgdt import TGDTIndex
from .picture_sources import HEIF_HINT, looks_like_picture

OnError = Literal["raise", "skip"]
_COMMIT_ITEMS, _COMMIT_BYTES, _COMMIT_SECONDS = 4096, 1 << 26, 10.0


@dataclass
class AddReport:
    """What became of the items given to `add_images` or `add_texts`.

    Attributes:
        added: Items written; an id that was there already was replaced.
        skipped: (id, why) of items left out, files among them that are pictures by their name and cannot be read.
        unchanged: With `resume=True`, items that were there already and were not read again.
        updated: Those among them whose metadata differed and was replaced.
        no_pictures: Suffix to number of the folder's other files, which are not pictures by name and content.
    """

    added: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unchanged: int = 0
    updated: int = 0
    no_pictures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Sequence[AddReport]) -> AddReport:
        """Join the reports of processes that shared the items."""
        total = cls()
        for part in parts:
            total.added, total.unchanged = total.added + part.added, total.unchanged + part.unchanged
            total.updated, total.skipped = total.updated + part.updated, total.skipped + part.skipped
        return total

    def leave_out(self, files: Mapping[str, str]) -> None:
        """Take note of the files of a folder that were no pictures.

        Args:
            files: Name to reason.
        """
        for name, why in files.items():
            if looks_like_picture(name) or why.startswith(HEIF_HINT):
                self.skipped.append((name, why))
            else:
                suffix = PurePath(name).suffix.lower() or "no suffix"
                self.no_pictures[suffix] = self.no_pictures.get(suffix, 0) + 1


@dataclass(frozen=True)
class Item:
    """One thing on its way into a gallery."""

    id: str
    value: Any
    metadata: Mapping[str, Any] | None


class GalleryFiller:
    """Adds a stream of items with memory bounded by a batch and one commit.

    Args:
        index: Where to.
        prepare: Makes one item ready, in worker threads; what it raises counts as an unreadable item.
        encode: Embeds a list of prepared items.
        batch_size: Items per call of `encode`.
        on_error: `"raise"` at the first unreadable item, or `"skip"` it and report it.
        resume: Leave out ids that the gallery has already.
        workers: Threads.
        progress: Whether to show a progress bar.
        hubness: Tells what to subtract from the global scores of items (N, `global_dim`); None for a gallery without.
        group: Processes that share the items; each of them makes the same calls. None: this one alone.
    """

    def __init__(
        self,
        index: TGDTIndex,
        prepare: Callable[[Any], Any],
        encode: Callable[[list[Any]], Embeddings],
        *,
        batch_size: int,
        on_error: OnError,
        resume: bool,
        workers: int,
        progress: bool,
        hubness: Callable[[torch.Tensor], torch.Tensor] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', found {on_error!r}.")
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        self.index, self.prepare, self.encode = index, prepare, encode
        self.batch_size, self.on_error, self.resume = batch_size, on_error, resume
        self.workers, self.progress, self.hubness, self.group = workers, progress, hubness, group
        self.report = AddReport()
        self._waiting: list[tuple[Item, np.ndarray, np.ndarray]] = []
        self._kept: dict[str, Mapping[str, Any]] = {}
        self._committed_at = time.monotonic()

    def fill(self, items: Iterable[Item], total: int | None = None) -> AddReport:
        """Add every item.

        Args:
            items: The stream; it is read only a little ahead.
            total: Number of items, for the progress bar.

        Returns:
            Counts and reasons, those of all processes.

        Raises:
            ValueError: For an unreadable item under `on_error="raise"`; what was committed before stays.
        """
        quiet = not self.progress or (self.group is not None and self.group.rank > 0)
        with self.index.filled_by(self.group):
            self._fill(tqdm(items, total=total, unit="item", disable=quiet))
        return self.report if self.group is None else AddReport.merged(self.group.gather(self.report))

    def _fill(self, items: Iterable[Item]) -> None:
        batch: list[tuple[Item, Any]] = []
        for item, ready in map_ahead(self.prepare, self._fresh(items), self.workers, 2 * self.batch_size):
            if isinstance(ready, Exception):
                self._refuse(item.id, str(ready), ready)
                continue
            batch.append((item, ready))
            if len(batch) == self.batch_size:
                self._encode(batch)
                batch = []
        self._encode(batch)
        self._commit()
        self._write_kept()

    def _fresh(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield what is to be added by this process; all of them look at all ids, to know those given twice."""
        seen: set[str] = set()
        for position, item in enumerate(items):
            is_mine = self.group is None or self.group.owns(position // self.batch_size)
            why = _bad_id(item.id) or ("its id was given twice in this call" if item.id in seen else None)
            known = why is None and self.resume and item.id in self.index
            if why is None and not known:
                seen.add(item.id)
            if not is_mine:
                continue
            if why is not None:
                self._refuse(item.id, why)
            elif known:
                self.report.unchanged += 1
                self._keep(item)
            else:
                yield item

    def _keep(self, item: Item) -> None:
        """Take note of the metadata of an item whose embeddings are there already."""
        if item.metadata:
            self._kept[item.id] = item.metadata
        if len(self._kept) >= _COMMIT_ITEMS:
            self._write_kept()

    def _write_kept(self) -> None:
        if self._kept:
            self.report.updated += self.index.update_metadata(list(self._kept), list(self._kept.values()))
        self._kept = {}

    def _refuse(self, name: str, why: str, cause: Exception | None = None) -> None:
        if self.on_error == "raise":
            kind = type(cause) if isinstance(cause, TypeError) else ValueError
            raise kind(f"item {name!r}: {why}. Repair or remove it, or pass on_error='skip'.") from cause
        self.report.skipped.append((name, why))

    def _encode(self, batch: list[tuple[Item, Any]]) -> None:
        if not batch:
            return
        embeds = self.encode([ready for _, ready in batch])
        vectors = self.index.truncate(embeds.global_embeds)
        for (item, _), vector, tokens in zip(batch, vectors, embeds.token_embeds, strict=True):
            if not (np.isfinite(vector).all() and np.isfinite(tokens).all()):
                self._refuse(item.id, "the model gave NaN or infinity for it")
            elif not vector.any():
                self._refuse(item.id, "the model gave a zero vector for it, which cannot be ranked")
            else:
                self._waiting.append((item, vector, tokens))
        size = sum(tokens.nbytes for _, _, tokens in self._waiting)
        late = time.monotonic() - self._committed_at > _COMMIT_SECONDS
        if late or size > _COMMIT_BYTES or len(self._waiting) >= _COMMIT_ITEMS:
            self._commit()

    def _commit(self) -> None:
        if self._waiting:
            items, vectors, tokens = zip(*self._waiting, strict=True)
            metadata = [item.metadata or {} for item in items] if any(item.metadata for item in items) else None
            ids, globals_ = [item.id for item in items], np.stack(vectors)
            hubness = None if self.hubness is None else self.hubness(torch.from_numpy(globals_))
            self.index.add(ids, globals_, list(tokens), metadata=metadata, hubness=hubness)
            self.report.added += len(items)
        self._waiting, self._committed_at = [], time.monotonic()


def name_items(
    values: Iterable[tuple[str | None, Any]], index: TGDTIndex, ids: Any, metadata: Any, resume: bool
) -> Iterator[Item]:
    """Give every item its id and metadata.

    Args:
        values: (id or None, value).
        index: Gallery that the items go to.
        ids: None: each value's own id, or else a running number that is free (with `resume`, its position).
        metadata: None, one mapping per item, or a mapping of columns.
        resume: See `GalleryFiller`.

    Raises:
        ValueError: When ids or metadata have another length than the values.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be one string per item, found the single string {ids!r}.")
    if isinstance(ids, Set):
        raise TypeError(f"ids must be in the order of the items, found a {type(ids).__name__}, which has none.")
    numbers = (str(n) for n in count() if resume or str(n) not in index)
    rows = repeat(None) if metadata is None else iter(_rows(metadata))
    names = None if ids is None else iter(ids)
    for suggested, value in values:
        name = (suggested if suggested is not None else next(numbers)) if names is None else next(names, _END)
        row = next(rows, _END)
        if name is _END or row is _END:
            what = "ids" if name is _END else "metadata"
            raise ValueError(f"There are more items than {what}. Give one per item.")
        yield Item(name, value, row)
    for what, rest in (("ids", names or ()), ("metadata", () if metadata is None else rows)):
        if next(iter(rest), _END) is not _END:
            raise ValueError(f"There are more {what} than items. Give one per item.")


def map_ahead(
    function: Callable[[Any], Any], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[tuple[Item, Any]]:
    """Apply a function to the values of a stream in threads, at most `ahead` items before the consumer.

    Yields:
        In order, each item with the result, or with the ValueError, TypeError or OSError that was raised.
    """
    running: deque[tuple[Item, Future[Any]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="tgdt-prepare") as pool:
        try:
            for item in items:
                running.append((item, pool.submit(function, item.value)))
                if len(running) > ahead:
                    yield _finished(*running.popleft())
            while running:
                yield _finished(*running.popleft())
        finally:
            for _, future in running:
                future.cancel()


_END: Any = object()


def _finished(item: Item, future: Future[Any]) -> tuple[Item, Any]:
    error = future.exception()
    if error is not None and not isinstance(error, ValueError | TypeError | OSError):
        raise error
    return item, future.result() if error is None else error


def _rows(metadata: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(metadata, Mapping):
        columns = list(metadata)
        return (dict(zip(columns, row, strict=True)) for row in zip(*metadata.values(), strict=True))
    return metadata


def _bad_id(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"its id must be a string, found {type(name).__name__}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid Unicode; rename it or pass ids"
    return None


__all__ = ["AddReport", "GalleryFiller", "Item", "OnError", "map_ahead", "name_items"]
