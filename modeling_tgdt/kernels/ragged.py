# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Ragged rows of tokens: what is stored, what is asked, and which pairs of the two are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .quantize import decode_tokens


@dataclass(frozen=True)
class TokenStore:
    """Ragged token rows: item `i` owns `rows[offsets[i]:offsets[i + 1]]`, and as many `bits` where it has them."""

    rows: np.ndarray
    scales: np.ndarray | None
    offsets: np.ndarray
    token_dtype: str
    bits: np.ndarray | None = None

    def decode(self, item: int) -> np.ndarray:
        """Return the rows (Ti, D) of one item as float32."""
        return self.decode_rows(slice(self.offsets[item], self.offsets[item + 1]))

    def decode_rows(self, tokens: slice | np.ndarray) -> np.ndarray:
        """Return chosen token rows (n, D) as float32."""
        scales = None if self.scales is None else self.scales[tokens]
        return decode_tokens(self.rows[tokens], scales, self.token_dtype)


@dataclass(frozen=True)
class RaggedQueries:
    """Token rows (sum of W, D) float32 of Q queries, one query after another, and offsets (Q + 1) int64."""

    rows: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Candidates of each query: store number (P,) int32 and item (P,) int64, with offsets (Q + 1) int64 by query."""

    stores: np.ndarray
    items: np.ndarray
    offsets: np.ndarray


def token_spans(stores: Sequence[TokenStore], pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the first token row of each pair's item in its store, and how many it has: (P,) int64 each."""
    starts, counts = np.empty(len(pairs.items), np.int64), np.empty(len(pairs.items), np.int64)
    for number in np.unique(pairs.stores):
        in_store, offsets = pairs.stores == number, stores[number].offsets
        items = pairs.items[in_store]
        starts[in_store], counts[in_store] = offsets[items], offsets[items + 1] - offsets[items]
    return starts, counts
