# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Hits of a search, and which word of a query matches which stored region of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..gallery.backend import SearchResult
from ..tokenizing_tgdt import merge_pieces


@dataclass(frozen=True)
class Match:
    """A word and the region that it matches best.

    Attributes:
        word: Word of the query, its pieces merged.
        region: Row of that region among the picture's stored tokens: a cell of the grid row by row, or the number of
            the detector's region; of the merged tokens in a gallery with a `pool_factor`.
        similarity: Their cosine, as precise as the gallery stores tokens; of a word of several pieces the mean.
    """

    word: str
    region: int
    similarity: float


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: Id in the gallery.
        score: What the ranking is by: the mixed score, or the one that the mode names.
        global_score: Dot product of the global embeddings.
        local_score: Token similarity; NaN in mode "global", which does not compute it.
        metadata: What was stored with the item.
        matches: For each word of the query its best region, of `search(..., explain=True)`.
        similar: Ids of worse hits that nearly equal it, of `search(..., group_similar=0.95)`.
    """

    id: str
    score: float
    global_score: float
    local_score: float
    metadata: dict[str, Any] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()
    similar: tuple[str, ...] = ()


def hits_of(result: SearchResult) -> list[list[Hit]]:
    """Return the hits of each query of a search."""
    queries = zip(result.ids, result.scores, result.global_scores, result.local_scores, result.metadata, strict=True)
    return [
        [Hit(name, float(s), float(g), float(t), data) for name, s, g, t, data in zip(*columns, strict=True)]
        for columns in queries
    ]


def match_words(word_tokens: np.ndarray, words: list[tuple[str, list[int]]], regions: np.ndarray) -> tuple[Match, ...]:
    """Match every word of a text with its best region.

    Args:
        word_tokens: (T, D) token embeddings of the text.
        words: W words, each with the rows of its pieces.
        regions: (R, D) stored tokens of a picture.

    Returns:
        W matches, in the order of the words; none for a picture without regions.
    """
    if not words or not len(regions):
        return ()
    matrix = merge_pieces(word_tokens @ regions.T, words)
    best: Any = zip(words, matrix.argmax(axis=1), matrix.max(axis=1), strict=True)
    return tuple(Match(word, int(region), float(cosine)) for (word, _), region, cosine in best)


__all__ = ["Hit", "Match", "hits_of", "match_words"]
