# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a retriever measures on sample queries: size of the shortlist, number of tokens, gain of the hubness."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ..encoding_tgdt import Embeddings
from ..index_tgdt import Kind, TGDTIndex
from .hubness import HubnessGain
from .pooling import PoolingCost, pooling_costs
from .shortlist import shortlist_ranks, smallest_shortlist
from .threshold import ScoreThreshold, fit_threshold


class TuningMixin:
    """The methods of `TGDTRetriever` that choose its options by measuring."""

    search: Callable[..., Any]
    _searchable: Callable[[], TGDTIndex]
    _encode_queries: Callable[[list[Any]], list[tuple[Kind, list[int], Embeddings]]]

    def fit_threshold(
        self,
        sample_queries: Sequence[Any],
        relevant: Sequence[str | Collection[str] | None],
        *,
        true_positive_rate: float = 0.95,
        candidates: int = 100,
    ) -> ScoreThreshold:
        """Fit a threshold that tells whether the gallery has a match at all, for `search(..., min_score=...)`.

        Args:
            sample_queries: Queries like those to come.
            relevant: For each query the id of its match, several ids, or None where the gallery has none. A query
                without its match serves as one that has none, so queries with a match are enough.
            true_positive_rate: Share of the queries with a match that keep a hit.
            candidates: Size of the shortlists.

        Returns:
            The threshold with its figures on the sample; `save(G)` keeps it beside a gallery.

        Raises:
            ValueError: When there is not one entry per query, or no match is found.
        """
        if len(relevant) != len(sample_queries):
            raise ValueError(f"Expected one entry per query, found {len(relevant)} for {len(sample_queries)} queries.")
        ranked = self.search(list(sample_queries), candidates, candidates)
        wanted = [{ids} if isinstance(ids, str) else set(ids or ()) for ids in relevant]
        scores = [np.array([hit.score for hit in hits]) for hits in ranked]
        matches = [np.array([hit.id in ids for hit in hits], bool) for hits, ids in zip(ranked, wanted, strict=True)]
        return fit_threshold(scores, matches, candidates, true_positive_rate)

    def suggest_candidates(self, sample_queries: Sequence[Any], recall: float = 0.99, top_k: int = 10) -> int:
        """Find the smallest shortlist that keeps a share of what an exhaustive search returns.

        Args:
            sample_queries: Queries like those to come; the more, the surer. Each costs an exhaustive search.
            recall: Share of the exhaustive top `top_k` that must be in the shortlist.
            top_k: Items that matter.

        Returns:
            A value for `candidates`.
        """
        ranks = [
            shortlist_ranks(self._searchable(), embeds, kind, top_k)
            for kind, _, embeds in self._encode_queries(list(sample_queries))
        ]
        return smallest_shortlist(
            np.concatenate([np.zeros((0, 0 if not ranks else ranks[0].shape[1]), np.int64), *ranks]), recall
        )

    def pooling_costs(
        self,
        sample_queries: Sequence[Any],
        factors: Iterable[int] = (2, 3, 4),
        *,
        top_k: int = 10,
        candidates: int = 100,
    ) -> list[PoolingCost]:
        """Tell what fewer tokens per item (`create_index(pool_factor=...)`) would save and cost.

        Args:
            sample_queries: Queries of one kind, words or pictures, like those to come.
            factors: Pooling factors to try.
            top_k: Items that matter.
            candidates: Size of the shortlists that are ranked again.

        Returns:
            One entry per factor: tokens and bytes per item, share of the unpooled ranking that is kept.
        """
        encoded = self._encode_queries(list(sample_queries))
        if len(encoded) != 1:
            raise ValueError(f"Expected sample queries of one kind, texts or pictures, found {len(encoded)} kinds.")
        ((kind, _, embeds),) = encoded
        return pooling_costs(self._searchable(), embeds, kind, factors, top_k=top_k, candidates=candidates)

    def hubness_gain(
        self, sample_queries: Sequence[Any], relevant: Sequence[str], *, top_k: int = 10, candidates: int = 100
    ) -> HubnessGain:
        """Tell whether the hubness correction helps, on queries whose match is known.

        Args:
            sample_queries: Queries like those to come, which are not among the reference queries.
            relevant: For each query the id of the item that it looks for.
            top_k: How far down a match counts.
            candidates: Size of the shortlists.

        Returns:
            Share of the queries whose match is found with the correction, and without it.

        Raises:
            ValueError: When the items of the gallery carry no hubness, or there is not one id per query.
        """
        if not self._searchable().has_hubness:
            raise ValueError(
                "Expected a gallery whose items carry a hubness, found one without. "
                "Build it with a model that has a bank."
            )
        if len(relevant) != len(sample_queries) or not len(relevant):
            raise ValueError(f"Expected one id per query, found {len(relevant)} for {len(sample_queries)} queries.")
        shares = []
        for on in (True, False):
            hits = self.search(list(sample_queries), top_k, candidates, hubness=on)
            has_match = [name in {hit.id for hit in ranked} for name, ranked in zip(relevant, hits, strict=True)]
            shares.append(float(np.mean(has_match)))
        return HubnessGain(*shares)
