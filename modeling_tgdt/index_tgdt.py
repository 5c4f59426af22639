# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTIndex: a gallery of images or texts on disk that grows, survives crashes, and is searched in two stages."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

import numpy as np
import torch

from .gallery.backend import Backend, SearchMode, SearchResult
from .gallery.engines import complete_engine_options, create_backend, make_backend
from .gallery.files import GalleryFiles
from .gallery.filters import Where, parse_filter
from .gallery.manifest import CHOICES, gallery_folder
from .gallery.metadata import metadata_rows, metadata_table
from .gallery.processes import ProcessGroup, written_together
from .gallery.validate import (
    check_candidates,
    check_choice,
    check_ids,
    check_item_globals,
    check_positive,
    check_query,
    check_score,
    cut_globals,
    optional_settings,
    other_model_error,
    ragged_tokens,
)
from .kernels.quantize import check_token_dtype, pool_items

Kind = Literal["image", "text"]
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _alone(method: Callable[Concatenate[TGDTIndex, _P], _T]) -> Callable[Concatenate[TGDTIndex, _P], _T]:
    """Let one thread at a time change what an index holds: a commit made from a stale one would undo another's."""

    @wraps(method)
    def locked(self: TGDTIndex, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._changing:
            return method(self, *args, **kwargs)

    return locked


class TGDTIndex:
    """A gallery on disk. It stores embeddings and knows nothing of models.

    The similarity of an image and a text is `global_weight * S_global + local_weight * S_local`: the dot product of
    their global embeddings, and the mean (or sum) over words of the best region's dot product, times `scale`
    (TGDT, Liu et al. 2023, sections 3.2 and 3.4). Open one with `create` or `open`.

    Any number of readers may search while one writer adds, deletes or compacts; a reader sees the commit that it
    opened until `refresh()`. The first write takes the lock of the single writer, `close()` gives it back. Threads may
    share an index; what they write is committed one after the other.

    Example:
        >>> import tempfile
        >>> rng = np.random.default_rng(0)
        >>> unit = lambda *shape: (x := rng.normal(size=shape)) / np.linalg.norm(x, axis=-1, keepdims=True)
        >>> images, regions = unit(3, 8), unit(3, 5, 8)
        >>> with TGDTIndex.create(tempfile.mkdtemp() + "/gallery", dim=8) as index:
        ...     index.add(["cat", "dog", "sea"], images, regions, metadata={"year": [2024, 2025, 2025]})
        ...     result = index.search(images[:1], regions[:1, :2], top_k=2, where={"year": [2024, 2025]})
        >>> result.ids[0][0]
        'cat'
    """

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path = path
        self._backend = backend
        self._changing = threading.RLock()
        weakref.finalize(self, backend.close)  # not `__del__`: modules are gone when Python ends

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dim: int,
        global_dim: int | None = None,
        token_dtype: str = "float16",
        engine: str = "exact",
        kind: Kind = "image",
        model_id: str | None = None,
        model_revision: str | None = None,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
        reduction: Literal["mean", "sum"] = "mean",
        scale: float = 1.0,
        pool_factor: int = 1,
        hubness: bool = False,
        segment_rows: int = 1 << 16,
        engine_options: Mapping[str, Any] | None = None,
    ) -> TGDTIndex:
        """Make an empty gallery.

        Args:
            path: Directory, made when missing; it must not hold a gallery yet.
            dim: D, length of every embedding.
            global_dim: Store and search the first numbers of the global embeddings only, brought back to unit length;
                all by default. Tokens keep their length. For models that were trained for it (`matryoshka_dims`).
            token_dtype: Precision of the token store: float32, float16, bfloat16, int16, int8 (one scale per token),
                or binary: int8 on disk, and a bit per number that says for which candidates to read them.
            engine: Stage one: "exact", "faiss" or "qdrant".
            kind: "image" or "text". The words that a local score sums over are the query's or the stored ones.
            model_id: Model that made the embeddings; `check_model` compares it.
            model_revision: Its revision.
            global_weight: Weight of the global score.
            local_weight: Weight of the local score.
            reduction: Over words: "mean", or "sum" as in the reference implementation.
            scale: Factor of the local score (the reference implementation: 10).
            pool_factor: Merge similar tokens of an item down to a 1/`pool_factor` share when adding.
            hubness: Whether items carry a hubness, which is subtracted from their global score.
            segment_rows: A new segment starts when the last one holds this many items.
            engine_options: Options of the engine, see `FaissEngine` and `QdrantBackend`.

        Returns:
            The empty index.

        Raises:
            FileExistsError: When the directory already holds a gallery.
            ValueError: For an unknown choice.
            OSError: When the directory cannot be written, or a Qdrant server does not answer.
        """
        settings: dict[str, Any] = {
            "dim": check_positive(dim, "dim"),
            "token_dtype": check_token_dtype(token_dtype),
            "engine": check_choice(engine, CHOICES["engine"], "engine"),
            "kind": check_choice(kind, CHOICES["kind"], "kind"),
            "model_id": model_id,
            "model_revision": model_revision,
            "global_weight": float(global_weight),
            "local_weight": float(local_weight),
            "reduction": check_choice(reduction, CHOICES["reduction"], "reduction"),
            "scale": float(scale),
            "pool_factor": check_positive(pool_factor, "pool_factor"),
            "segment_rows": check_positive(segment_rows, "segment_rows"),
            "engine_options": complete_engine_options(engine, engine_options or {}),
        }
        settings |= optional_settings(settings, hubness, global_dim)
        return cls(Path(path), create_backend(Path(path), settings))

    @classmethod
    def open(cls, path: str | Path, *, engine_options: Mapping[str, Any] | None = None) -> TGDTIndex:
        """Open a gallery for searching and, from the first write on, for writing.

        Args:
            path: Its directory, or one that has it in `index/`. It may be a stranger's: no code
                of it runs, nothing outside it is read or written.
            engine_options: How to reach a gallery in Qdrant, which its directory must not decide: `url` of the server
                (or the environment variable QDRANT_URL), or `{"embedded": "local"}` for an emulated store of yours.

        Raises:
            FileNotFoundError: When there is no gallery.
            ValueError: When it is damaged or of another format version, or lies in a Qdrant that you did not name.
        """
        folder = gallery_folder(Path(path))
        return cls(folder, make_backend(GalleryFiles(folder), engine_options or {}))

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `create` was given, as the manifest records it."""
        return self._backend.settings

    @property
    def dim(self) -> int:
        """Length of every embedding."""
        return self.settings["dim"]

    @property
    def global_dim(self) -> int:
        """Length of the stored global embeddings: that of every embedding, unless they are cut."""
        return self.settings.get("global_dim", self.dim)

    @property
    def kind(self) -> Kind:
        """What the gallery holds, "image" or "text"."""
        return self.settings["kind"]

    @property
    def has_hubness(self) -> bool:
        """Whether items carry a hubness, which is subtracted from their global score."""
        return bool(self.settings.get("hubness"))

    @property
    def metadata_types(self) -> Mapping[str, str] | None:
        """Arrow type of every metadata key, such as `{"year": "int64"}`; None in Qdrant, which takes anything."""
        return self._backend.metadata_types()

    def __len__(self) -> int:
        return len(self._backend)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._backend.ids())

    def __repr__(self) -> str:
        shown = ("kind", "dim", "token_dtype", "engine", "model_id")
        settings = ", ".join(f"{key}={self.settings[key]!r}" for key in shown)
        return f"TGDTIndex({str(self.path)!r}, {len(self)} items, {settings})"

    def check_model(self, model_id: str | None, model_revision: str | None = None) -> None:
        """Raise ValueError when the gallery was built with another model or revision; None matches anything."""
        for key, value in (("model_id", model_id), ("model_revision", model_revision)):
            known = self.settings[key]
            if None not in (known, value) and known != value:
                raise self.refusal(f"{key}={known!r}", repr(value))

    def refusal(self, built_with: str, found: str) -> ValueError:
        """Return the error for a model that did not build this gallery, with the ways out."""
        return other_model_error(self.path, built_with, found)

    @_alone
    def add(
        self,
        ids: Sequence[str],
        global_embeds: Any,
        token_embeds: Any,
        token_mask: Any = None,
        metadata: Any = None,
        *,
        hubness: Any = None,
    ) -> None:
        """Add items in one commit; an id that is there already is replaced.

        Call it once per batch to build a gallery of any size: memory holds one batch.

        Args:
            ids: N strings.
            global_embeds: (N, D) array or tensor; cut to the gallery's `global_dim` here, unless they are already.
            token_embeds: (N, T, D) array or tensor, or a list of N arrays (Ti, D).
            token_mask: (N, T) bool, true for real tokens; None when all are.
            metadata: N dicts, or a dict of columns; strings, numbers, booleans or lists, one type per key.
            hubness: (N,) numbers, what is subtracted from each item's global score; for a gallery made with `hubness`.

        Raises:
            TypeError: When ids are not strings or a metadata key mixes types.
            ValueError: For a wrong shape, NaN, infinity, a zero vector, or an id given twice. Nothing is added then.
            RuntimeError: When another writer is at work.
            OSError: When the disk is full or read-only. The gallery keeps its last committed state.
        """
        names = check_ids(ids)
        globals_ = check_item_globals(self.settings, global_embeds, hubness, len(names))
        tokens, counts = ragged_tokens(token_embeds, token_mask, len(names), self.dim, "token_embeds")
        table = metadata_table(names, metadata)
        if names:
            self._backend.add(names, table, globals_, *pool_items(tokens, counts, self.settings["pool_factor"]))

    def filled_by(self, group: ProcessGroup | None) -> AbstractContextManager[None]:
        """Let every process of a launch add items, which all become visible at the end, in one commit.

        Every process opens the gallery and enters this context. Inside, it may `add` items and `update_metadata` of
        its own items; both are stored at once. If a process dies before the end, the next writer adopts what it had
        stored. Until the end other writers are refused. A Qdrant server shows items immediately.

        Args:
            group: What `gallery.processes.process_group` returned; None for this process alone, which commits every
                `add`. Either way the lock is given back at the end.

        Raises:
            RuntimeError: In every process, when another writer is at work.
            TypeError: When processes give a metadata key types that do not fit together; what fits is kept.
            ValueError: For an embedded Qdrant store, which only one process can open.
        """
        return written_together(self._backend, group)

    def truncate(self, global_embeds: Any) -> np.ndarray:
        """Cut global embeddings (N, D) to the length that this gallery stores (N, `global_dim`), as `add` does."""
        return cut_globals(global_embeds, self.settings, "global_embeds")

    @_alone
    def update_metadata(self, ids: Sequence[str], metadata: Any) -> int:
        """Replace the metadata of items, whose embeddings stay as they are, bit for bit.

        Args:
            ids: N ids that are there.
            metadata: As in `add`.

        Returns:
            How many items had other metadata before; only these are written.

        Raises:
            KeyError: When an id is not there; nothing is written then.
            TypeError: When a key mixes types.
        """
        names = check_ids(ids)
        wanted = metadata_rows(metadata_table(names, metadata))
        self._backend.begin()
        self._check_present(names, "add them first")
        known = self._backend.metadata(names)
        changed = {name: new for name, new, old in zip(names, wanted, known, strict=True) if new != old}
        if changed:
            self._backend.store_again(list(changed), metadata_table(list(changed), list(changed.values())))
        return len(changed)

    @_alone
    def copy(self, sources: Sequence[str], ids: Sequence[str]) -> None:
        """Store items once more under other ids, embeddings bit for bit and with their metadata.

        Args:
            sources: N ids that are there; an id that is listed twice is copied twice.
            ids: N ids of the copies. One that is there already is replaced; if it is a source too, it is copied first.

        Raises:
            KeyError: When a source is not there.
            ValueError: When an id is given twice.
        """
        names, wanted = check_ids(ids), check_ids(list(dict.fromkeys(sources)))
        if len(names) != len(sources):
            raise ValueError(f"Expected one id per source, found {len(names)} ids for {len(sources)} sources.")
        self._backend.begin()
        self._check_present(wanted, "add them first")
        if names:
            self._backend.store_again(list(sources), metadata_table(names, self._backend.metadata(list(sources))))

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Read embeddings back, as precise as they are stored.

        Args:
            ids: N ids.

        Returns:
            Global embeddings (N, `global_dim`) float32 and N token arrays (Ti, D) float32.

        Raises:
            KeyError: When an id is not there.
        """
        stored, tokens = self._stored(ids)
        return stored[:, : self.global_dim], tokens

    def hubness(self, ids: Sequence[str]) -> np.ndarray:
        """Read back what is subtracted from the global scores of items.

        Args:
            ids: N ids.

        Returns:
            (N,) float32; zeros where items carry no hubness.

        Raises:
            KeyError: When an id is not there.
        """
        return -self._stored(ids)[0][:, self.global_dim :].sum(axis=1)

    @_alone
    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Delete items in one commit; `compact` gives their space back.

        Args:
            ids: What to delete.
            missing_ok: Skip ids that are not there instead of refusing the call.

        Returns:
            How many items were deleted.

        Raises:
            KeyError: When an id is not there; nothing is deleted then.
        """
        names = check_ids(ids)
        self._backend.begin()  # another writer's commits may have moved the rows
        if not missing_ok:
            self._check_present(names, "pass missing_ok=True")
        present = [name for name in names if name in self._backend]
        if present:
            self._backend.delete(present)
        return len(present)

    @_alone
    def compact(self) -> None:
        """Give the space of deleted items back, merge small commits, and rebuild an approximate engine."""
        self._backend.compact()

    def verify(self) -> list[str]:
        """Read every committed byte and compare checksums.

        Returns:
            One line per damage, naming the segment and file; empty for a sound gallery.
        """
        return self._backend.verify()

    @_alone
    def refresh(self) -> bool:
        """See what a writer committed since; return whether there was anything new."""
        return self._backend.refresh()

    def to(self, device: str | torch.device) -> TGDTIndex:
        """Score in the memory of an accelerator from now on: `index.to("cuda")`.

        Global embeddings and tokens are copied there in the precision of the store, and again after every commit.
        Both stages then run in PyTorch; only the FAISS engine stays on the CPU. Writes still go to the files.
        `to("cpu")` frees the copy and goes back to the kernel, which reads the files in place.

        Args:
            device: Where to.

        Returns:
            This index. It ranks as before; scores differ by float32 rounding, or TF32's where a program allows it.

        Raises:
            MemoryError: When the device has too little memory.
            ValueError: For a Qdrant gallery, which is scored where Qdrant runs.
        """
        self._backend.to(torch.device(device))
        return self

    def tokens(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Read the stored tokens of items, N arrays (Ti, D) float32; see `get`."""
        return self.get(ids)[1]

    def search(
        self,
        query_global: Any,
        query_tokens: Any = None,
        query_mask: Any = None,
        *,
        top_k: int = 10,
        candidates: int = 100,
        mode: SearchMode = "two_stage",
        where: Where | None = None,
        query_kind: Kind | None = None,
        hubness: bool = True,
        global_weight: float | None = None,
        local_weight: float | None = None,
    ) -> SearchResult:
        """Rank the gallery for Q queries.

        Args:
            query_global: (Q, D) array or tensor, cut to the gallery's `global_dim` here, unless they are already.
            query_tokens: (Q, T, D), or a list of Q arrays (Ti, D); may be None in mode "global".
            query_mask: (Q, T) bool, true for real tokens; None when all are.
            top_k: Items to return; fewer when the gallery, the filter or `candidates` allow fewer.
            candidates: Size of the shortlist that the global score picks and the mixed score ranks.
            mode: "two_stage"; "global": stage one alone; "local": every item by the local score alone.
            where: Filter over ids and metadata, in the grammar of `modeling_tgdt/gallery/filters.py`: a value, a list
                of values, `{"gte": 2021}`, a callable, `or`, `not`, `ids`. All entries must hold.
            query_kind: What the query is; by default the kind that the gallery does not hold. A local score sums over
                words: those of a text query, or of the stored text for an image query. Between two items of one kind
                it sums over the query's tokens.
            hubness: Whether the items' hubness is subtracted from their global scores. A query of the gallery's own
                kind is never corrected.
            global_weight: Weight of the global score in this call; the gallery's own by default.
            local_weight: Weight of the local score in this call.

        Returns:
            Ranked ids with scores; empty lists for an empty gallery.

        Raises:
            ValueError: For a wrong shape, NaN, infinity, an unknown mode or metadata key.
        """
        check_choice(mode, get_args(SearchMode), "mode")
        check_positive(top_k, "top_k")
        check_positive(candidates, "candidates")
        if mode == "global" and query_tokens is None:
            query_tokens = [np.zeros((0, self.dim), np.float32)] * len(query_global)
        query = check_query(self.settings, query_global, query_tokens, query_mask, query_kind, hubness)
        score = check_score(self.settings, global_weight, local_weight)
        return self._backend.search(replace(query, score=score, where=parse_filter(where)), top_k, candidates, mode)

    def rerank(
        self,
        query_global: Any,
        query_tokens: Any,
        query_mask: Any,
        candidate_ids: Sequence[Sequence[str]],
        *,
        query_kind: Kind | None = None,
        hubness: bool = True,
    ) -> SearchResult:
        """Rank a shortlist from elsewhere by the mixed score.

        Args:
            query_global: (Q, D).
            query_tokens: (Q, T, D), or a list of (Ti, D).
            query_mask: (Q, T) bool, or None.
            candidate_ids: For each query its candidates.
            query_kind: As in `search`.
            hubness: As in `search`.

        Returns:
            A permutation of each query's candidates.

        Raises:
            KeyError: When a candidate is not in the gallery.
        """
        query = check_query(self.settings, query_global, query_tokens, query_mask, query_kind, hubness)
        lists = check_candidates(candidate_ids, len(query))
        self._check_present([name for names in lists for name in names], "refresh() the index or leave them out")
        return self._backend.rerank(query, lists)

    @_alone
    def close(self) -> None:
        """Give the writer's lock back; the index can still be searched, and the next write takes the lock again."""
        self._backend.close()

    def __enter__(self) -> TGDTIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_present(self, names: list[str], hint: str) -> None:
        missing = [name for name in names if name not in self._backend]
        if missing:
            raise KeyError(f"{len(missing)} ids are not in the gallery, such as {missing[:5]!r}; {hint}.")

    def _stored(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        names = check_ids(ids)
        self._check_present(names, "refresh() the index or leave them out")
        return self._backend.get(names)
