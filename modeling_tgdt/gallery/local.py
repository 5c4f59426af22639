# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Two-stage search over the files of a gallery."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..kernels.binary import binary_maxsim
from ..kernels.maxsim import maxsim
from ..kernels.ragged import RaggedQueries, token_spans
from ..kernels.ranking import Ranked, best_by_id, offsets_of
from .backend import Engine, Query, SearchMode, SearchResult
from .device import DeviceGallery
from .exact import ExactEngine
from .files import GalleryFiles, Snapshot
from .filters import Filter, keys_of
from .metadata import matching_rows, metadata_rows, metadata_types
from .scan import dot_rows, locate
from .segment import encode_batch, select_rows
from .storage import clear_os_errors

_PAIRS = 1 << 21  # pairs scored at a time
RESCORED = 4  # of binary tokens: how many times top_k candidates are scored by their int8 rows


class LocalBackend:
    """A gallery on this machine with a stage-one engine.

    Args:
        gallery: The files.
        engine: Stage one.
    """

    def __init__(self, gallery: GalleryFiles, engine: Engine) -> None:
        self.gallery = gallery
        self.engine = engine
        self.settings = gallery.snapshot.manifest.settings
        self.device: torch.device | None = None  # where scores are computed; None: from the files, by the kernel
        self._resident: DeviceGallery | None = None
        self._copying = threading.Lock()

    def __len__(self) -> int:
        return self.gallery.snapshot.size

    def __contains__(self, name: str) -> bool:
        return name in self.gallery.snapshot.row_of

    def ids(self) -> list[str]:
        """Ids of all items, in the order of their addition."""
        snapshot = self.gallery.snapshot
        return snapshot.ids(np.flatnonzero(snapshot.alive))

    def metadata_types(self) -> dict[str, str]:
        """Arrow type of every metadata key."""
        return metadata_types(self.gallery.snapshot.schema)

    def add(self, ids: list[str], table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> None:
        """Commit checked items."""
        layout = self.gallery.snapshot.manifest.layout
        self.gallery.append(ids, encode_batch(table, globals_, tokens, counts, layout))

    def begin(self) -> None:
        """Become the writer and see the newest commit."""
        with clear_os_errors(self.gallery.root, "write to"):
            self.gallery.begin()

    def join(self, first: bool = False) -> None:
        """Write as one process of a group, see `GalleryFiles.join`."""
        with clear_os_errors(self.gallery.root, "write to"):
            self.gallery.join(first)

    def leave(self) -> None:
        """Have written as one process of a group, see `GalleryFiles.leave`."""
        self.gallery.leave()

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Decode the embeddings of ids that are all there."""
        snapshot = self.gallery.snapshot
        rows = np.array([snapshot.row_of[name] for name in ids], dtype=np.int64)
        pairs = locate(snapshot.segments, rows, np.array([0, len(rows)]))
        items = [(snapshot.segments[number], item) for number, item in zip(pairs.stores, pairs.items, strict=True)]
        vectors = np.array([segment.globals[item] for segment, item in items], np.float32)
        vectors = vectors.reshape(len(rows), snapshot.manifest.layout.global_columns)  # N may be 0
        return vectors, [segment.store.decode(item) for segment, item in items]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Read the metadata of ids that are all there."""
        snapshot = self.gallery.snapshot
        return _metadata(snapshot, np.array([snapshot.row_of[name] for name in ids], dtype=np.int64))

    def store_again(self, ids: list[str], table: Any) -> None:
        """Commit the rows of ids again, bit for bit, with the ids and metadata of a table."""
        names = table.column("id").to_pylist()
        snapshot = self.gallery.snapshot
        rows = np.array([snapshot.row_of[name] for name in ids], dtype=np.int64)
        numbers = np.searchsorted(snapshot.bases, rows, side="right") - 1
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)  # what lies in this segment
            batch = select_rows(snapshot.segments[number], rows[chosen] - snapshot.bases[number])
            self.gallery.append([names[position] for position in chosen], replace(batch, table=table.take(chosen)))

    def delete(self, ids: list[str]) -> None:
        """Commit the deletion of ids that are all there."""
        self.gallery.delete({name: self.gallery.snapshot.row_of[name] for name in ids})

    def compact(self) -> None:
        """Rewrite the living rows and rebuild the engine."""
        self.gallery.compact()
        self.engine.rebuild(self.gallery)

    def verify(self) -> list[str]:
        """Return one line per damage."""
        return self.gallery.verify()

    def refresh(self) -> bool:
        """Move to the newest commit."""
        return self.gallery.refresh()

    def to(self, device: torch.device) -> None:
        """See `TGDTIndex.to`."""
        self.device, self._resident = None, None
        if device.type != "cpu":
            segments = self.gallery.snapshot.segments
            resident = DeviceGallery(segments, device) if segments else None  # before anything counts on the device
            self.device, self._resident = device, resident

    def close(self) -> None:
        """Give the writer's lock back."""
        self.gallery.lock.release()

    def search(self, query: Query, top_k: int, candidates: int, mode: SearchMode) -> SearchResult:
        """Rank the gallery for checked queries; see `TGDTIndex.search`."""
        snapshot = self.gallery.snapshot
        if not len(query):
            return _no_hits(0)
        allowed = _allowed_rows(snapshot, query.where)
        size = snapshot.size if allowed is None else int(allowed.sum())
        if size == 0:
            return _no_hits(len(query))
        if mode == "local":
            rows = np.flatnonzero(allowed) if allowed is not None else np.arange(len(snapshot.alive))
            return self._exhaustive(snapshot, query, rows, top_k)
        k = min(candidates if mode == "two_stage" else top_k, size)  # of the shortlist
        resident = self._on_device(snapshot)
        if resident is not None and isinstance(self.engine, ExactEngine):
            shortlist = resident.shortlist(query.globals, k, allowed)
        else:
            shortlist = self.engine.shortlist(snapshot, query.globals, k, allowed)
        if mode == "global" or len(shortlist.rows) > k * len(query):  # ids order ties, which end with the k-th
            shortlist = _best(snapshot, shortlist, k)
        if mode == "global":
            return _result(snapshot, shortlist, shortlist.scores, np.full(len(shortlist.rows), np.nan, np.float32))
        return self._rank(snapshot, query, shortlist, min(top_k, k))

    def rerank(self, query: Query, candidate_ids: Sequence[Sequence[str]]) -> SearchResult:
        """Rank given candidates of each query by the mixed score."""
        snapshot = self.gallery.snapshot
        rows = np.array([snapshot.row_of[name] for names in candidate_ids for name in names], dtype=np.int64)
        offsets = offsets_of(np.array([len(names) for names in candidate_ids]))
        shortlists = Ranked(rows, dot_rows(snapshot.segments, query.globals, rows, offsets), offsets)
        return self._rank(snapshot, query, shortlists, max(len(rows), 1))

    def _rank(self, snapshot: Snapshot, query: Query, shortlist: Ranked, top_k: int) -> SearchResult:
        if self._reads_bits(snapshot):
            _, _, places, ends = self._mixed_best(snapshot, query, shortlist, RESCORED * top_k, by_bits=True)
            shortlist = Ranked(shortlist.rows[places], shortlist.scores[places], ends)
        local, scores, places, ends = self._mixed_best(snapshot, query, shortlist, top_k)
        best = Ranked(shortlist.rows[places], scores[places], ends)
        return _result(snapshot, best, shortlist.scores[places], local[places])

    def _mixed_best(
        self, snapshot: Snapshot, query: Query, shortlist: Ranked, k: int, by_bits: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return local and mixed scores (P,), and the places of the best k of each query with their offsets."""
        local = self._local_scores(snapshot, query, shortlist.rows, shortlist.offsets, by_bits)
        scores = query.score.mixed(shortlist.scores, local).astype(np.float32, copy=False)
        return local, scores, *best_by_id(scores, shortlist.offsets, k, *_by_id(snapshot, shortlist))

    def _exhaustive(self, snapshot: Snapshot, query: Query, rows: np.ndarray, top_k: int) -> SearchResult:
        parts = []
        step = max(1, _PAIRS // len(rows))  # queries at a time
        for start in range(0, len(query), step):
            block = _slice(query, start, start + step)
            every = np.tile(rows, len(block))  # (P,), all rows once for each query
            offsets = np.arange(len(block) + 1, dtype=np.int64) * len(rows)
            if self._reads_bits(snapshot):
                bits = self._local_scores(snapshot, block, every, offsets, by_bits=True)
                near = _best(snapshot, Ranked(every, bits, offsets), RESCORED * top_k)
                every, offsets = near.rows, near.offsets
            scores = self._local_scores(snapshot, block, every, offsets)
            parts.append(_best(snapshot, Ranked(every, scores, offsets), top_k))
        rows, local = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "scores"))
        best = Ranked(rows, local, offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])))
        return _result(snapshot, best, dot_rows(snapshot.segments, query.globals, rows, best.offsets), local)

    def _reads_bits(self, snapshot: Snapshot) -> bool:
        """Tell whether bits say which tokens to read; on a device all of them are in its memory."""
        return snapshot.manifest.layout.has_bits and self._on_device(snapshot) is None

    def _local_scores(
        self, snapshot: Snapshot, query: Query, rows: np.ndarray, offsets: np.ndarray, by_bits: bool = False
    ) -> np.ndarray:
        stores, resident = [segment.store for segment in snapshot.segments], self._on_device(snapshot)
        pairs = locate(snapshot.segments, rows, offsets)
        if by_bits:
            scores = binary_maxsim(stores, query.tokens, pairs, sum_over=query.sum_over)
        elif resident is not None:
            scores = resident.maxsim(query.tokens, rows, offsets, query.sum_over)
        else:
            scores = maxsim(stores, query.tokens, pairs, sum_over=query.sum_over)
        if query.sum_over == "query":
            words = np.repeat(np.diff(query.tokens.offsets), np.diff(pairs.offsets))  # (P,), those of each pair
        else:
            _, words = token_spans(stores, pairs)  # (P,), those of each stored text
        return query.score.local(scores, words)

    def _on_device(self, snapshot: Snapshot) -> DeviceGallery | None:
        """Return the gallery on the device, copied anew when a commit changed its segments."""
        if self.device is None or not snapshot.segments:
            return None
        with self._copying:  # searches of several threads share one copy
            if self._resident is None or self._resident.segments != snapshot.segments:
                self._resident = None  # frees the old copy first
                self._resident = DeviceGallery(snapshot.segments, self.device)
            return self._resident


def _no_hits(size: int) -> SearchResult:
    ids: list[list[str]] = [[] for _ in range(size)]
    metadata: list[list[dict[str, Any]]] = [[] for _ in range(size)]
    scores = [np.zeros(0, np.float32)] * size
    return SearchResult(ids, scores, scores, scores, metadata)


def _allowed_rows(snapshot: Snapshot, where: Filter | None) -> np.ndarray | None:
    if where is None:
        return None if snapshot.size == len(snapshot.alive) else snapshot.alive
    known = list(metadata_types(snapshot.schema))
    for key in keys_of(where):
        if key not in known and snapshot.size:
            raise ValueError(f"Expected a metadata key of this gallery in where, {known!r}, found {key!r}.")
    parts = [matching_rows(segment.table, where) for segment in snapshot.segments]
    return np.concatenate([np.zeros(0, bool), *parts]) & snapshot.alive


def _by_id(snapshot: Snapshot, ranked: Ranked) -> tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]:
    """Return what gives the ids of places among the ranked rows, and their numbers in the order of all ids."""
    return lambda places: snapshot.ids(ranked.rows[places]), lambda places: snapshot.id_ranks[ranked.rows[places]]


def _best(snapshot: Snapshot, ranked: Ranked, k: int) -> Ranked:
    places, ends = best_by_id(ranked.scores, ranked.offsets, k, *_by_id(snapshot, ranked))
    return Ranked(ranked.rows[places], ranked.scores[places], ends)


def _result(snapshot: Snapshot, best: Ranked, global_scores: np.ndarray, local: np.ndarray) -> SearchResult:
    ids, metadata, edges = snapshot.ids(best.rows), _metadata(snapshot, best.rows), best.offsets.tolist()
    columns: list[Any] = [
        [column[first:last] for first, last in zip(edges[:-1], edges[1:], strict=True)]
        for column in (ids, best.scores, global_scores, local, metadata)
    ]
    return SearchResult(*columns)


def _metadata(snapshot: Snapshot, rows: np.ndarray) -> list[dict[str, Any]]:
    return [{} for _ in rows] if len(snapshot.schema.names) == 1 else metadata_rows(snapshot.take(rows))


def _slice(query: Query, start: int, stop: int) -> Query:
    offsets = query.tokens.offsets[start : stop + 1]
    tokens = RaggedQueries(query.tokens.rows[offsets[0] : offsets[-1]], offsets - offsets[0])
    return replace(query, globals=query.globals[start:stop], tokens=tokens)
