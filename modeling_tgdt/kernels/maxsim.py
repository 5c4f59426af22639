# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Max-sum over a ragged token store, read in place: the compiled kernel, or PyTorch with the same ranking.

The score of a pair is `sum over words of max over regions of word . region`. The words are the query's tokens
(`sum_over="query"`) or the stored ones (`sum_over="stored"`). The kernel never writes the words x regions matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .quantize import SCALED_DTYPES, decode_tokens, encode_tokens
from .ragged import Pairs, RaggedQueries, TokenStore, token_spans
from .torch_maxsim import torch_maxsim

SumOver = Literal["query", "stored"]
KERNEL_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int16": 3, "int8": 4}
_FALLBACK_ROWS = 1 << 16  # stored rows read at a time


class _StoreStruct(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("offsets", ctypes.c_void_p)]


def _load_kernel() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_maxsim{suffix}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
                library.tgdt_isa.restype = ctypes.c_char_p
                return library if library.tgdt_best else None
            except (OSError, AttributeError):  # of another machine or version: the fallback ranks the same
                return None
    return None


kernel = _load_kernel()


def kernel_isa() -> str:
    """Return the instruction set that the kernel uses here, or `torch` without a kernel.

    Example:
        >>> kernel_isa() in ("amx", "avx512_bf16", "avx512_vnni", "avx2", "portable", "torch")
        True
    """
    return kernel.tgdt_isa().decode() if kernel is not None else "torch"


def maxsim(
    stores: Sequence[TokenStore],
    queries: RaggedQueries,
    pairs: Pairs,
    *,
    sum_over: SumOver = "query",
    threads: int | None = None,
) -> np.ndarray:
    """Score query-candidate pairs.

    The query is rounded as the store is (bfloat16; int8 and int16 with a scale per token), on every path alike;
    only for float16 it stays in float32.

    Args:
        stores: Token stores of one dtype and dimension.
        queries: Tokens of Q queries.
        pairs: Candidates of each query.
        sum_over: Whose tokens are the words.
        threads: CPU threads; PyTorch's number by default.

    Returns:
        (P,) float32. A pair without words or without regions scores 0.
    """
    scores = np.zeros(len(pairs.items), dtype=np.float32)
    if not len(scores) or not len(queries.rows):
        return scores
    if kernel is None:
        return _maxsim_torch(stores, queries, pairs, sum_over)
    _maxsim_kernel(stores, queries, pairs, sum_over, threads or torch.get_num_threads(), scores)
    return scores


def dot_products(
    vectors: Sequence[np.ndarray], queries: np.ndarray, pairs: Pairs, *, threads: int | None = None
) -> np.ndarray:
    """Dot products of query-candidate pairs; a pair's sum does not depend on the other pairs.

    Args:
        vectors: One float32 array (Ns, D) per store.
        queries: (Q, D) float32.
        pairs: Candidates of each query: store and row.
        threads: CPU threads; PyTorch's number by default.

    Returns:
        (P,) float32.
    """
    scores = np.empty(len(pairs.items), dtype=np.float32)
    if kernel is not None:
        structs = vector_stores(vectors)
        dim, workers = ctypes.c_int64(queries.shape[1]), ctypes.c_int(threads or torch.get_num_threads())
        run_kernel("tgdt_dots", structs, dim, *_by_query(queries, pairs), workers, scores)
        return scores
    for query, vector in enumerate(queries.astype(np.float64)):  # so no block size shows in float32
        for start in range(pairs.offsets[query], pairs.offsets[query + 1], _FALLBACK_ROWS):
            block = slice(start, min(start + _FALLBACK_ROWS, pairs.offsets[query + 1]))
            candidates = zip(pairs.stores[block], pairs.items[block], strict=True)
            scores[block] = np.stack([vectors[number][item] for number, item in candidates]) @ vector
    return scores


def vector_stores(vectors: Sequence[np.ndarray]) -> ctypes.Array[_StoreStruct]:
    """Hand (Ns, D) float32 arrays, one per store, to the kernel."""
    return (_StoreStruct * len(vectors))(*(_StoreStruct(address(array), None, None) for array in vectors))


def _maxsim_torch(stores: Sequence[TokenStore], queries: RaggedQueries, pairs: Pairs, sum_over: SumOver) -> np.ndarray:
    bases = np.cumsum([0, *(len(store.rows) for store in stores)])  # first token of each store, counted over all
    starts, counts = token_spans(stores, pairs)  # (P,) each
    starts += bases[pairs.stores]

    def gather(tokens: torch.Tensor) -> torch.Tensor:
        numbers = tokens.numpy()
        owners = np.searchsorted(bases, numbers, side="right") - 1  # store of each token
        rows = np.empty((len(numbers), stores[0].rows.shape[1]), np.float32)  # (tokens, D)
        for store in np.unique(owners):
            in_store = owners == store
            rows[in_store] = stores[store].decode_rows(numbers[in_store] - bases[store])
        return torch.from_numpy(rows)

    words = rounded_queries(queries, stores[0].token_dtype)
    return torch_maxsim(
        gather, torch.from_numpy(starts), torch.from_numpy(counts), words, np.asarray(pairs.offsets), sum_over
    )


def rounded_queries(queries: RaggedQueries, token_dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Round query tokens as the store's, as the kernel does: rows (sum of W, D) float32 and offsets (Q + 1)."""
    dtype = query_dtype(token_dtype)
    return decode_tokens(*encode_tokens(queries.rows, dtype), dtype), queries.offsets


def query_dtype(token_dtype: str) -> str:
    """Return in which dtype a store's queries are compared: its own, or float32 for float16."""
    return "float32" if token_dtype == "float16" else token_dtype


def _maxsim_kernel(
    stores: Sequence[TokenStore], queries: RaggedQueries, pairs: Pairs, sum_over: SumOver, threads: int, scores: Any
) -> None:
    token_dtype = stores[0].token_dtype
    words, word_scales = queries.rows, None  # the kernel rounds to bfloat16 itself
    if token_dtype in SCALED_DTYPES:
        words, word_scales = encode_tokens(words, token_dtype)  # codes (sum of W, D), scales (sum of W, 2)
    words, word_offsets = np.ascontiguousarray(words), np.ascontiguousarray(queries.offsets, np.int64)
    run_kernel(
        "tgdt_maxsim",
        (_StoreStruct * len(stores))(
            *(_StoreStruct(address(store.rows), address(store.scales), address(store.offsets)) for store in stores)
        ),
        ctypes.c_int(KERNEL_DTYPES[token_dtype]),
        ctypes.c_int64(words.shape[1]),
        words,
        word_scales,
        *_by_query(word_offsets, pairs),
        ctypes.c_int(sum_over == "stored"),
        ctypes.c_int(threads),
        scores,
    )


def _by_query(queries: np.ndarray, pairs: Pairs) -> tuple[Any, ...]:
    """Return the kernel's arguments for pairs; `queries` are vectors (Q, D), or offsets of words (Q + 1)."""
    return (
        queries,
        ctypes.c_int64(len(pairs.offsets) - 1),
        np.ascontiguousarray(pairs.stores, np.int32),
        np.ascontiguousarray(pairs.items, np.int64),
        np.ascontiguousarray(pairs.offsets, np.int64),
    )


def run_kernel(name: str, *arguments: Any) -> None:
    """Call a kernel function; arrays are handed over by address.

    Raises:
        MemoryError: When the kernel could not get its working memory.
        ValueError: When one query has more tokens than the kernel takes.
    """
    raw = [ctypes.c_void_p(address(a)) if a is None or isinstance(a, np.ndarray) else a for a in arguments]
    status = getattr(kernel, name)(*raw)
    if status == 2:
        raise ValueError("A query has more than 16,000 tokens. Split it, or pool its tokens.")
    if status:
        raise MemoryError("The re-rank kernel ran out of memory. Search with fewer queries or candidates at a time.")


def address(array: np.ndarray | None) -> int | None:
    """Return where an array's first element lies, for the kernel."""
    return None if array is None else array.__array_interface__["data"][0]
