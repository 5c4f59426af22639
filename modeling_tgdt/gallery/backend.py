# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What `TGDTIndex` asks of a gallery wherever it lies, and what a stage-one engine over a gallery's files offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..kernels.maxsim import SumOver
from ..kernels.ragged import RaggedQueries
from ..kernels.ranking import Ranked
from ..similarity_tgdt import ScoreConfig
from .filters import Filter

if TYPE_CHECKING:
    import torch

    from .files import GalleryFiles, Snapshot

SearchMode = Literal["two_stage", "global", "local"]


@dataclass(frozen=True)
class Query:
    """Q checked queries.

    Attributes:
        globals: (Q, D) float32 global embeddings.
        tokens: Their tokens.
        sum_over: Whose tokens are the words: the query's, or those of the stored items.
        score: How the scores are mixed.
        where: Which items may be found; None for all.
    """

    globals: np.ndarray
    tokens: RaggedQueries
    sum_over: SumOver
    score: ScoreConfig = field(default_factory=ScoreConfig)
    where: Filter | None = None

    def __len__(self) -> int:
        return len(self.globals)


@dataclass(frozen=True)
class SearchResult:
    """Ranked items of Q queries, best first; ties are in the order of the ids.

    Attributes:
        ids: For each query its ids.
        scores: For each query (k,) float32, what the ranking is by.
        global_scores: The dot products of the global embeddings.
        local_scores: The token similarities (scaled); NaN in mode "global", which does not compute them.
        metadata: For each query one dict per item.
    """

    ids: list[list[str]]
    scores: list[np.ndarray]
    global_scores: list[np.ndarray]
    local_scores: list[np.ndarray]
    metadata: list[list[dict[str, Any]]]


class Backend(Protocol):
    """A gallery on this machine (`LocalBackend`) or in Qdrant (`QdrantBackend`). `TGDTIndex` checks every argument.

    Writes are whole or leave no trace, and are on disk when a method returns. `get`, `metadata`, `store_again`,
    `delete` and `rerank` are given ids that are there.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...  # of the manifest
    def __len__(self) -> int: ...
    def __contains__(self, name: str) -> bool: ...
    def ids(self) -> list[str]: ...
    def metadata_types(self) -> dict[str, str] | None: ...  # Arrow type of every key; None where any goes

    def begin(self) -> None: ...  # become the writer, if there can be but one, and see the newest commit
    def join(self, first: bool = False) -> None: ...  # write as one process of a group; the first takes the lock
    def leave(self) -> None: ...  # have written as one process of a group
    def add(  # replaces ids that are there; globals_ (N, D), tokens (sum of counts, D), counts (N,)
        self, ids: list[str], table: Any, globals_: np.ndarray, tokens: np.ndarray, counts: np.ndarray
    ) -> None: ...
    def store_again(self, ids: list[str], table: Any) -> None: ...  # bit for bit, with a table's ids and metadata
    def delete(self, ids: list[str]) -> None: ...
    def compact(self) -> None: ...  # give space back and build stage one anew
    def verify(self) -> list[str]: ...  # one line per damage
    def refresh(self) -> bool: ...  # see what a writer committed since; whether there was anything
    def to(self, device: torch.device) -> None: ...  # score there; ValueError where that cannot be
    def close(self) -> None: ...  # let go of lock or connection; the next call takes it again

    def get(self, ids: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]: ...  # (N, D) and N arrays (Ti, D)
    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]: ...
    def search(self, query: Query, top_k: int, candidates: int, mode: SearchMode) -> SearchResult: ...
    def rerank(self, query: Query, candidate_ids: Sequence[Sequence[str]]) -> SearchResult: ...  # by the mixed score


class Engine(Protocol):
    """Stage one over the files of a gallery. Row numbers count over all segments, in order."""

    def shortlist(self, snapshot: Snapshot, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """Find the k best rows of each query.

        Args:
            snapshot: The gallery, N rows in all.
            queries: (Q, D) float32.
            k: How many rows are wanted, at most the number of allowed rows.
            allowed: (N,) bool, or None for every row.

        Returns:
            For each query its rows by their exact scores; more than k when there are ties at the border.
        """
        ...

    def rebuild(self, gallery: GalleryFiles) -> None:
        """Make the engine anew from a compacted gallery and commit its files."""
        ...
