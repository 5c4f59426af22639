# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which word of a query matches which stored region of a hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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


__all__ = ["Match", "match_words"]
