# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What token pooling costs: how much of the unpooled ranking a gallery of fewer tokens keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..encoding_tgdt import Embeddings
from ..index_tgdt import Kind, TGDTIndex
from ..kernels.quantize import bytes_per_token, pool_tokens

_COPIED = ("dim", "global_dim", "token_dtype", "kind", "global_weight", "local_weight", "reduction", "scale")


@dataclass(frozen=True)
class PoolingCost:
    """What one factor costs on a sample.

    Attributes:
        factor: As in `TGDTIndex.create(pool_factor=...)`.
        tokens: Tokens per item, on average.
        bytes: Bytes of tokens per item, on average.
        recall: Share of the unpooled top `top_k` that the pooled top `top_k` holds.
        top_1: Share of the queries with the same best item.
    """

    factor: int
    tokens: float
    bytes: float
    recall: float
    top_1: float


def pooling_costs(
    index: TGDTIndex,
    queries: Embeddings,
    query_kind: Kind,
    factors: Iterable[int],
    *,
    top_k: int = 10,
    candidates: int = 100,
) -> list[PoolingCost]:
    """Rank the shortlists of sample queries by the stored tokens, and again by fewer of them.

    Args:
        index: The gallery; nothing in it changes.
        queries: Q embedded queries.
        query_kind: What they are.
        factors: Pooling factors to try, on top of the gallery's own.
        top_k: Items that matter.
        candidates: Size of the shortlists.

    Returns:
        One entry per factor.

    Raises:
        ValueError: Without queries or items, or for a factor below 1.
    """
    factors = list(factors)
    if any(factor < 1 for factor in factors):
        raise ValueError(f"Pooling factors must be at least 1, found {factors}.")
    if not len(queries.global_embeds) or not len(index):
        raise ValueError("Expected at least one sample query and one item in the gallery, found none.")
    asked = (queries.global_embeds, queries.token_embeds, None)
    near = index.search(*asked, mode="global", top_k=candidates, query_kind=query_kind).ids
    expected = index.rerank(*asked, near, query_kind=query_kind).ids
    names = sorted({name for shortlist in near for name in shortlist})
    vectors, tokens = index.get(names)
    hubness = index.hubness(names) if index.has_hubness else None
    costs = []
    for factor in factors:
        pooled = [pool_tokens(item, factor) for item in tokens]
        with tempfile.TemporaryDirectory() as folder:
            options = {key: index.settings[key] for key in _COPIED if key in index.settings}
            with TGDTIndex.create(Path(folder, "pooled"), hubness=index.has_hubness, **options) as small:
                small.add(names, vectors, pooled, hubness=hubness)
                ranked = small.rerank(*asked, near, query_kind=query_kind).ids
        count = float(np.mean([len(item) for item in pooled]))
        size = count * bytes_per_token(index.dim, index.settings["token_dtype"])
        costs.append(PoolingCost(factor, count, size, _kept(expected, ranked, top_k), _kept(expected, ranked, 1)))
    return costs


def _kept(expected: list[list[str]], ranked: list[list[str]], top_k: int) -> float:
    shares = [len(set(a[:top_k]) & set(b[:top_k])) / len(a[:top_k]) for a, b in zip(expected, ranked, strict=True)]
    return float(np.mean(shares))


__all__ = ["PoolingCost", "pooling_costs"]
