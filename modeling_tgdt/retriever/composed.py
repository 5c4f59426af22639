# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Queries of several parts: words and pictures together, and what must not be there, each with a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..encoding_tgdt import Embeddings
from ..gallery.backend import SearchResult
from ..gallery.validate import check_score
from ..index_tgdt import Kind, TGDTIndex


@dataclass(frozen=True)
class ComposedQuery:
    """One query of several parts; an item's score is the weighted mean of its scores for the parts.

    Args:
        parts: Texts and pictures, each what a query may be.
        weights: One number per part, negative for what is not wanted; 1 by default.

    Raises:
        ValueError: When there is not one weight per part, or nothing that is wanted.

    Example:
        >>> ComposedQuery(["a beach", "a dog", "snow"], weights=[1, 1, -0.5]).weights
        (0.5, 0.5, -0.25)
    """

    parts: Sequence[Any]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        weights = [float(weight) for weight in self.weights] or [1.0] * len(self.parts)
        if len(weights) != len(self.parts):
            raise ValueError(f"Expected one weight per part, found {len(weights)} for {len(self.parts)} parts.")
        wanted = sum(weight for weight in weights if weight > 0)
        if not np.isfinite(weights).all() or wanted <= 0:
            raise ValueError(f"Expected numbers as weights, at least one of them above 0, found {weights}.")
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "weights", tuple(weight / wanted for weight in weights))


@dataclass(frozen=True)
class EncodedPart:
    """One part: what it is, its embeddings (of one item), and its weight."""

    kind: Kind
    embeds: Embeddings
    weight: float


def search_composed(
    index: TGDTIndex,
    parts: Sequence[EncodedPart],
    *,
    top_k: int,
    candidates: int,
    mode: str,
    where: Mapping[str, Any] | None = None,
    hubness: bool = True,
    global_weight: float | None = None,
    local_weight: float | None = None,
) -> SearchResult:
    """Rank a gallery for one query of several parts.

    Stage one is as exact as for a single query: the weighted sum of the parts' global embeddings is one embedding.

    Args:
        index: The gallery.
        parts: The parts.
        top_k: Items to return.
        candidates: Size of the shortlist.
        mode: As in `TGDTIndex.search`.
        where: Filter.
        hubness: As in `TGDTIndex.search`.
        global_weight: As in `TGDTIndex.search`.
        local_weight: As in `TGDTIndex.search`.

    Returns:
        The ranking of one query.
    """
    size = {"two_stage": candidates, "global": top_k, "local": max(1, len(index))}[mode]
    near = _shortlist(index, parts, size, where, hubness)
    names, metadata = near.ids[0], dict(zip(near.ids[0], near.metadata[0], strict=True))
    global_scores, local_scores = np.zeros(len(names)), np.zeros(len(names))
    for part in parts if names else ():
        reranked = index.rerank(
            part.embeds.global_embeds, part.embeds.token_embeds, None, [names], query_kind=part.kind, hubness=hubness
        )
        row_of = {name: row for row, name in enumerate(reranked.ids[0])}  # a part ranks by its own score
        order = [row_of[name] for name in names]
        global_scores += part.weight * reranked.global_scores[0][order]
        local_scores += part.weight * reranked.local_scores[0][order]
    mixed = check_score(index.settings, global_weight, local_weight).mixed(global_scores, local_scores)
    scores = {"two_stage": mixed, "global": global_scores, "local": local_scores}[mode].astype(np.float32)
    best = sorted(range(len(names)), key=lambda row: (-scores[row], names[row]))[:top_k]
    local = np.full(len(names), np.nan) if mode == "global" else local_scores
    ids = [names[row] for row in best]
    return SearchResult(
        [ids], [scores[best]], [global_scores[best]], [local[best]], [[metadata[name] for name in ids]]
    )


def _shortlist(
    index: TGDTIndex, parts: Sequence[EncodedPart], size: int, where: Mapping[str, Any] | None, hubness: bool
) -> Any:
    """Search by the sum of the global embeddings; what is subtracted for hubs counts by the weight of the words."""
    vector: Any = sum(part.weight * index.truncate(part.embeds.global_embeds) for part in parts)
    other: Kind = "text" if index.kind == "image" else "image"
    share = sum(part.weight for part in parts if part.kind == other)
    if not np.any(vector):
        raise ValueError("The parts of the query cancel each other out. Change their weights.")
    corrected = hubness and share > 0  # the correction is for queries of the other kind, once per query
    return index.search(
        vector / share if corrected else vector, mode="global", top_k=size, where=where, query_kind=other,
        hubness=corrected,
    )  # fmt: skip


__all__ = ["ComposedQuery", "EncodedPart", "search_composed"]
