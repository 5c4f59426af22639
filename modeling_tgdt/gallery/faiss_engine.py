# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Approximate stage one with FAISS, for galleries whose exact scan has become too slow."""

from __future__ import annotations

import logging
import os
import uuid
from io import BytesIO
from typing import Any

import numpy as np

from ..kernels.ranking import Ranked
from .exact import ExactEngine
from .files import GalleryFiles, Snapshot
from .own_files import SIGNATURE_BYTES, is_own, signature
from .plain_files import read_inside, write_fresh
from .scan import exact_best, recheck
from .storage import clear_os_errors, file_crc

try:
    import faiss as _faiss
except ImportError:
    _faiss = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
faiss: Any = _faiss  # its stubs lack the Python wrappers
_BLOCK = 1 << 16
_SELECTIVE = 20  # a filter that leaves less than 1 / 20 of the rows is scanned exactly


class FaissEngine:
    """HNSW or IVF-PQ over the rows of the last `compact()`; newer rows are scanned exactly until the next one.

    Whatever it finds is scored again in float32, so only the recall of the shortlist is approximate. Below `min_rows`
    the exact scan is used, whose recall is 1. Up to about 150,000 rows it is faster as well: see
    benchmarks/RESULTS.md.

    FAISS trusts what it reads, so a file is read only where this user wrote it (see `own_files`); the gallery of
    somebody else is scanned exactly until `compact()` builds the index anew.

    Args:
        min_rows: Size from which an approximate index is built.
        factory: FAISS factory string; by default HNSW32, and IVF-PQ above a million rows.
        oversample: How many times the shortlist is fetched before it is scored again.
        ef_search: Breadth of the HNSW search.
        nprobe: Cells visited by IVF.
        train_rows: Sample that IVF and PQ are trained on.
    """

    def __init__(
        self,
        min_rows: int = 500_000,
        factory: str | None = None,
        oversample: int = 4,
        ef_search: int = 512,
        nprobe: int = 64,
        train_rows: int = 100_000,
    ) -> None:
        if faiss is None:
            raise ImportError("engine='faiss' needs FAISS. Install it with `pip install 'tgdt[faiss]'`.")
        numbers = {"min_rows": min_rows, "oversample": oversample, "ef_search": ef_search}
        for name, value in (numbers | {"nprobe": nprobe, "train_rows": train_rows}).items():
            if type(value) is not int or not 0 < value < 1 << 31:
                raise ValueError(f"Engine option {name} must be an integer from 1, found {value!r}.")
        if factory is not None and not isinstance(factory, str):
            raise TypeError(f"Engine option factory must be a string such as 'HNSW32', found {factory!r}.")
        self.min_rows, self.factory, self.oversample = min_rows, factory, oversample
        self.ef_search, self.nprobe, self.train_rows = ef_search, nprobe, train_rows
        self._exact = ExactEngine()
        self._loaded: tuple[str, Any] | None = None  # name of the file, and its index unless it is somebody else's

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """See `Engine.shortlist`; recall is approximate for rows older than the last compaction."""
        index = self._index(snapshot)
        if index is None or (allowed is not None and allowed.sum() * _SELECTIVE < len(allowed)):
            return self._exact.shortlist(snapshot, queries, k, allowed)
        neighbours = self._approximate(index, queries, min(self.oversample * k, index.ntotal), allowed)
        newer = self._newer(snapshot, index.ntotal, queries, k, allowed)
        rows = [np.concatenate([a[a >= 0], b]) for a, b in zip(neighbours, newer, strict=True)]
        short = [number for number, candidates in enumerate(rows) if len(candidates) < k]
        if short:  # a graph gives up when what matches, or lives, is far from the query
            best = exact_best(snapshot.segments, queries[short], k, allowed)
            for position, number in enumerate(short):
                rows[number] = best.rows[best.offsets[position] : best.offsets[position + 1]]
        return recheck(snapshot.segments, queries, rows, k)

    def rebuild(self, gallery: GalleryFiles) -> None:
        """Build the index over a compacted gallery and commit its file."""
        snapshot = gallery.snapshot
        if len(snapshot.alive) < self.min_rows:
            return
        index = self._checked(snapshot)
        name = f"engine-{uuid.uuid4().hex[:12]}.bin"
        with clear_os_errors(gallery.root, "store the engine of"):
            data = faiss.serialize_index(index).data
            with write_fresh(gallery.root, name) as file:
                file.write(data)
                file.write(signature(BytesIO(data), len(data)))
                file.flush()
                os.fsync(file.fileno())
        length = len(data) + SIGNATURE_BYTES
        gallery.set_engine_files({name: [length, file_crc(gallery.root, name, length) or 0]})
        self._loaded = (name, index)

    def _build(self, snapshot: Snapshot) -> Any:
        total, dim = len(snapshot.alive), snapshot.manifest.layout.global_columns
        cells = int(4 * total**0.5)
        padded = 4 * -(-dim // 4)  # with zeros: product quantisation wants parts of one length
        factory = self.factory or ("HNSW32" if total < 1_000_000 else f"IVF{cells},PQ{padded // 4}x8")
        factory = factory if dim == padded else f"Pad{padded},{factory}"
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            sample = np.random.default_rng(0).permutation(total)[: self.train_rows]
            numbers = np.searchsorted(snapshot.bases, np.sort(sample), side="right") - 1
            rows = np.sort(sample) - snapshot.bases[numbers]
            parts = [s.globals[rows[numbers == number]] for number, s in enumerate(snapshot.segments)]
            index.train(np.concatenate(parts))
        for segment in snapshot.segments:
            for start in range(0, len(segment), _BLOCK):
                index.add(np.ascontiguousarray(segment.globals[start : start + _BLOCK]))
        return index

    def _checked(self, snapshot: Snapshot) -> Any:
        """Build an index that can be searched; FAISS takes no filter for some kinds of it."""
        try:
            index = self._build(snapshot)
            self._approximate(index, np.zeros((1, index.d), np.float32), 1, np.ones(index.ntotal, bool))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"Expected a factory of FAISS indexes that can be searched under a filter, found {self.factory!r} for "
                f"{len(snapshot.alive)} items: {reason}. Choose another one, such as 'HNSW32'."
            ) from error
        return index

    def _index(self, snapshot: Snapshot) -> Any:
        for name, (length, crc) in snapshot.manifest.engine_files.items():
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = (name, self._read(snapshot, name, length, crc))
            return self._loaded[1]
        return None

    def _read(self, snapshot: Snapshot, name: str, length: int, crc: int) -> Any:
        """Read the index; None, with a word to the log, where it is not this user's or not of this gallery."""
        root = snapshot.root
        if not (root / name).exists():
            raise ValueError(
                f"{name} in {str(root)!r} is gone, as after another writer's compact(). refresh() "
                "the index, or compact() it when the file stays away."
            )
        if file_crc(root, name, length) != crc:
            raise ValueError(f"{name} in {str(root)!r} is damaged. compact() builds it again.")
        if is_own(root, name, length):
            with read_inside(root, name) as file:
                index = faiss.read_index(faiss.PyCallbackIOReader(file.read))
            if index.d == snapshot.manifest.layout.global_columns and index.ntotal <= len(snapshot.alive):
                return index
        logger.warning("The FAISS index in %r is not of your making: it is not read, every row is scanned.", str(root))
        return None

    def _approximate(self, index: Any, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed[: index.ntotal], bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        return index.search(queries, k, params=self._parameters(index, k, options))[1]

    def _parameters(self, index: Any, k: int, options: dict[str, Any]) -> Any:
        """Return the search parameters of an index; those of the index inside go in by a wrapper."""
        index = faiss.downcast_index(index)
        if isinstance(index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=self._parameters(index.index, k, options))
        if isinstance(index, faiss.IndexRefine):
            inner = self._parameters(index.base_index, k, options)
            return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
        if hasattr(index, "hnsw"):
            return faiss.SearchParametersHNSW(efSearch=max(self.ef_search, k), **options)
        if hasattr(index, "nprobe"):
            return faiss.SearchParametersIVF(nprobe=self.nprobe, **options)
        return faiss.SearchParameters(**options)

    def _newer(
        self, snapshot: Snapshot, built: int, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> list[np.ndarray]:
        total = len(snapshot.alive)
        if built == total:
            return [np.zeros(0, np.int64)] * len(queries)
        number = int(np.searchsorted(snapshot.bases, built, side="right")) - 1
        base = int(snapshot.bases[number])
        mask = np.ones(total - base, bool) if allowed is None else allowed[base:].copy()
        mask[: built - base] = False
        if not mask.any():
            return [np.zeros(0, np.int64)] * len(queries)
        best = exact_best(snapshot.segments[number:], queries, min(k, int(mask.sum())), mask)
        return np.split(base + best.rows, best.offsets[1:-1])
