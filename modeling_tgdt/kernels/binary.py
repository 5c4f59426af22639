# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""One bit per number of a token: max-sum over signs, which says whose int8 tokens are worth reading.

A token r is taken for `f * sign(r)`; the mean of |r| is the `f` of the smallest error (XNOR-Net, arXiv 1603.05279).
Signs are unpacked to int8 for the few rows that are scored, so that the int8 kernel does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .maxsim import SumOver, maxsim
from .ragged import Pairs, RaggedQueries, TokenStore, token_spans
from .ranking import offsets_of

_ROWS = 1 << 16  # token rows unpacked at a time
_BYTES = np.arange(256, dtype=np.uint8)
_COUNTS = np.unpackbits(_BYTES[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # ones of a byte
_SIGNS = (2 * np.unpackbits(_BYTES[:, None], axis=1).astype(np.int8) - 1).view(np.uint64)[:, 0]  # eight int8 of a byte


def encode_bits(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Keep the signs of int8 tokens.

    Args:
        codes: (T, D) int8.
        scales: (T, 2) float32, the first column their scales.

    Returns:
        (T, ceil(D / 8) + 2) uint8: a bit per number, then the factor in float16.

    Example:
        >>> encode_bits(np.int8([[127, -127, 0, 127]]), np.float32([[0.01, 127]]))[:, 0]
        array([176], dtype=uint8)
    """
    factors = scales[:, 0] * np.abs(codes).mean(axis=1, dtype=np.float32)
    return np.column_stack([np.packbits(codes >= 0, axis=1), factors.astype("<f2")[:, None].view(np.uint8)])


def decode_bits(bits: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signs (T, D) int8 and (T, 2) float32, their scales and sums, as an int8 store has them.

    Args:
        bits: What `encode_bits` gave.
        dim: D.
    """
    packed, factors = bits[:, :-2], np.ascontiguousarray(bits[:, -2:]).view("<f2")[:, 0]
    signs = np.ascontiguousarray(_SIGNS[packed].view(np.int8)[:, :dim])
    sums = 2 * _COUNTS[packed].sum(axis=1, dtype=np.int32) - dim
    return signs, np.stack([factors, sums], axis=1, dtype=np.float32)


def binary_maxsim(
    stores: Sequence[TokenStore], queries: RaggedQueries, pairs: Pairs, *, sum_over: SumOver = "query"
) -> np.ndarray:
    """Score query-candidate pairs by the signs of the stored tokens; see `maxsim`.

    Args:
        stores: Token stores with bits.
        queries: Tokens of Q queries.
        pairs: Candidates of each query.
        sum_over: Whose tokens are the words.

    Returns:
        (P,) float32.
    """
    scores, (starts, counts) = np.zeros(len(pairs.items), np.float32), token_spans(stores, pairs)
    for query, (first, last) in enumerate(zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)):
        own = slice(queries.offsets[query], queries.offsets[query + 1])
        words = RaggedQueries(queries.rows[own], np.array([0, own.stop - own.start]))
        blocks = np.cumsum(counts[first:last]) // _ROWS  # (candidates,), ascending
        for edges in np.split(np.arange(first, last), np.flatnonzero(np.diff(blocks)) + 1) if first < last else ():
            scores[edges] = _of_one(stores, words, pairs.stores[edges], starts[edges], counts[edges], sum_over)
    return scores


def _of_one(
    stores: Sequence[TokenStore],
    words: RaggedQueries,
    numbers: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    sum_over: SumOver,
) -> np.ndarray:
    places = zip(numbers.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True)
    rows = [stores[number].bits[first:last] for number, first, last in places]
    signs, scales = decode_bits(np.concatenate(rows), words.rows.shape[1])
    store = TokenStore(signs, scales, offsets_of(counts), "int8")
    every = Pairs(np.zeros(len(counts), np.int32), np.arange(len(counts)), np.array([0, len(counts)]))
    return maxsim([store], words, every, sum_over=sum_over)
