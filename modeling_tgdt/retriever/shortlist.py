# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""How large a shortlist must be: where stage one ranks the items that an exhaustive search would return."""

from __future__ import annotations

import math

import numpy as np

from ..encoding_tgdt import Embeddings
from ..index_tgdt import Kind, TGDTIndex


def shortlist_ranks(index: TGDTIndex, queries: Embeddings, query_kind: Kind, top_k: int) -> np.ndarray:
    """Find the stage-one rank of every item that the mixed score over the whole gallery puts among the best.

    Args:
        index: The gallery, N items.
        queries: Q embedded queries.
        query_kind: What they are.
        top_k: Items that matter, per query.

    Returns:
        (Q, min(top_k, N)) int64 ranks by the global score, from 1.
    """
    size, ranks = len(index), []
    for vector, tokens in zip(queries.global_embeds, queries.token_embeds, strict=True):
        query = (vector[None], [tokens])
        best = index.search(*query, top_k=top_k, candidates=size, query_kind=query_kind).ids[0]
        order = index.search(*query, top_k=size, mode="global", query_kind=query_kind).ids[0]
        rank_of = {name: rank for rank, name in enumerate(order, start=1)}
        ranks.append([rank_of[name] for name in best])
    return np.array(ranks, dtype=np.int64)


def smallest_shortlist(ranks: np.ndarray, recall: float) -> int:
    """Return the smallest shortlist that holds a share `recall` of the items that matter.

    Args:
        ranks: What `shortlist_ranks` returned.
        recall: In (0, 1].

    Raises:
        ValueError: For a recall outside that range, or without queries.

    Example:
        >>> smallest_shortlist(np.array([[1, 2], [1, 40]]), 0.75)
        2
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1, found {recall!r}.")
    if ranks.size == 0:
        raise ValueError("Expected at least one sample query and one item in the gallery, found none.")
    ordered = np.sort(ranks, axis=None)
    return int(max(ordered[math.ceil(recall * len(ordered) - 1e-9) - 1], ranks.shape[1]))


def shortlist_recall(ranks: np.ndarray, candidates: int) -> float:
    """Return the share of the items that matter that a shortlist of this size holds."""
    return float((ranks <= candidates).mean()) if ranks.size else 1.0


__all__ = ["shortlist_ranks", "shortlist_recall", "smallest_shortlist"]
