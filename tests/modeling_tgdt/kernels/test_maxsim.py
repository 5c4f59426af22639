"""The kernel on every instruction set of this machine, and its PyTorch fallback, against nested loops."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import modeling_tgdt.kernels.maxsim as maxsim_module
from modeling_tgdt.kernels.maxsim import maxsim
from modeling_tgdt.kernels.quantize import STORAGE_DTYPES, decode_tokens, encode_tokens, pool_tokens
from modeling_tgdt.kernels.ragged import Pairs, RaggedQueries, TokenStore
from tests.modeling_tgdt.gallery.index_twin import TOLERANCE, local_similarity, ragged, unit

PATHS = ["torch", "portable", "avx2", "avx512_vnni", "avx512_bf16", "amx"]


@pytest.fixture(params=PATHS)
def path(request, without_kernel):
    """Run on one path, or skip when this machine lacks it."""
    if request.param == "torch":
        without_kernel()
        yield request.param
        return
    if maxsim_module.kernel is None:
        pytest.skip("the kernel is not built")
    use = maxsim_module.kernel.tgdt_use_isa
    use.restype = ctypes.c_char_p
    if use(request.param.encode()).decode() != request.param:
        use(b"")
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    use(b"")


def store_of(parts: list[np.ndarray], token_dtype: str, dim: int) -> TokenStore:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    rows, scales = encode_tokens(np.concatenate([np.zeros((0, dim), np.float32), *parts]), token_dtype)
    return TokenStore(rows, scales, offsets, token_dtype)


@pytest.mark.parametrize("sum_over", ["query", "stored"])
@pytest.mark.parametrize("token_dtype", sorted(STORAGE_DTYPES))
@pytest.mark.parametrize("dim", [1, 7, 32, 64, 100])
def test_equals_nested_loops(path, dim, token_dtype, sum_over) -> None:
    rng = np.random.default_rng(dim)
    halves = [ragged(rng, 9, 17, dim), ragged(rng, 6, 3, dim)]
    stores = [store_of(parts, token_dtype, dim) for parts in halves]
    words = ragged(rng, 4, 30, dim)
    queries = RaggedQueries(np.concatenate(words), np.concatenate([[0], np.cumsum([len(w) for w in words])]))
    numbers = rng.integers(0, 2, 40).astype(np.int32)
    items = np.where(numbers == 0, rng.integers(0, 9, 40), rng.integers(0, 6, 40))
    pairs = Pairs(numbers, items, np.array([0, 13, 13, 30, 40]))
    scores = maxsim(stores, queries, pairs, sum_over=sum_over, threads=2)
    for query in range(4):
        for place in range(pairs.offsets[query], pairs.offsets[query + 1]):
            sides = [words[query], halves[numbers[place]][items[place]]]
            if sum_over == "stored":
                sides.reverse()
            expected = local_similarity(*sides, "sum", 1.0)
            assert abs(scores[place] - expected) < TOLERANCE[token_dtype] * max(1, len(sides[0]))


@pytest.mark.parametrize("sum_over", ["query", "stored"])
@pytest.mark.parametrize("token_dtype", ["bfloat16", "int8"])
def test_items_and_queries_of_any_length(path, token_dtype, sum_over) -> None:
    rng = np.random.default_rng(5)
    lengths = [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 80, 100]
    parts, words = [[unit(rng, n, 64) for n in lengths] for _ in range(2)]
    count = len(lengths)
    queries = RaggedQueries(np.concatenate(words), np.cumsum([0, *lengths]))
    pairs = Pairs(np.zeros(count**2, np.int32), np.tile(np.arange(count), count), np.arange(count + 1) * count)
    scores = maxsim([store_of(parts, token_dtype, 64)], queries, pairs, sum_over=sum_over).reshape(count, count)
    for query, row in zip(words, scores, strict=True):
        for part, score in zip(parts, row, strict=True):
            summed, best = (query, part) if sum_over == "query" else (part, query)
            expected = (summed @ best.T).max(axis=1).sum()
            assert abs(score - expected) < TOLERANCE[token_dtype] * len(summed)


@pytest.mark.parametrize("token_dtype", sorted(STORAGE_DTYPES))
def test_every_path_gives_the_fallbacks_scores(path, token_dtype, without_kernel) -> None:
    rng = np.random.default_rng(1)
    store = store_of(ragged(rng, 20, 40, 64, least=1), token_dtype, 64)
    queries = RaggedQueries(unit(rng, 11, 64), np.array([0, 11]))
    pairs = Pairs(np.zeros(20, np.int32), np.arange(20), np.array([0, 20]))
    scores = maxsim([store], queries, pairs)
    without_kernel()
    np.testing.assert_allclose(scores, maxsim([store], queries, pairs), atol=2e-5)


def test_a_pair_score_does_not_depend_on_the_other_pairs(path) -> None:
    if path == "torch":
        pytest.skip("a matrix product may round differently in another block")
    rng = np.random.default_rng(2)
    store = store_of(ragged(rng, 30, 12, 48, least=1), "float16", 48)
    queries = RaggedQueries(unit(rng, 5, 48), np.array([0, 5]))
    together = maxsim([store], queries, Pairs(np.zeros(30, np.int32), np.arange(30), np.array([0, 30])), threads=2)
    alone = [
        maxsim([store], queries, Pairs(np.zeros(1, np.int32), np.array([i]), np.array([0, 1])))[0] for i in range(30)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize("queries", [1, 3, 5])
@pytest.mark.parametrize("dim", [64, 96, 128])
def test_the_scan_is_the_product_of_the_codes(path, dim, queries) -> None:
    if path == "torch":
        pytest.skip("the fallback scans float32")
    rng = np.random.default_rng(dim)
    rows, words = rng.integers(-127, 128, (1045, dim)), rng.integers(-127, 128, (queries, dim))
    rows[:4], words[0] = np.array([[127], [-127], [0], [1]]), 127  # the largest sums
    rows[4:6], words[-1, ::2] = rows[3] * -1, -127
    row_scales, word_scales = rng.uniform(0.5, 2, len(rows)), rng.uniform(0.5, 2, queries)
    scores = np.full((queries, len(rows) + 3), 7, dtype=np.float32)
    maxsim_module.run_kernel(
        "tgdt_scan",
        rows.astype(np.int8),
        np.stack([row_scales, rows.sum(axis=1)], axis=1).astype(np.float32),
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(dim),
        words.astype(np.int8),
        np.stack([word_scales, words.sum(axis=1)], axis=1).astype(np.float32),
        ctypes.c_int64(queries),
        ctypes.c_int64(scores.shape[1]),
        ctypes.c_int(2),
        scores,
    )
    np.testing.assert_allclose(scores[:, :-3], words @ rows.T * row_scales * word_scales[:, None], rtol=1e-5)
    assert (scores[:, -3:] == 7).all()


@pytest.mark.parametrize("token_dtype", sorted(STORAGE_DTYPES))
def test_codes_decode_within_the_stated_error(token_dtype) -> None:
    tokens = unit(np.random.default_rng(3), 50, 64)
    codes, scales = encode_tokens(tokens, token_dtype)
    assert np.abs(decode_tokens(codes, scales, token_dtype) - tokens).max() < TOLERANCE[token_dtype]
    assert scales is None or np.array_equal(scales[:, 1], codes.sum(axis=1, dtype=np.int64))


def test_float16_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="65504"):
        encode_tokens(np.array([[1e6]], np.float32), "float16")


def test_pooling_merges_duplicates_first_and_keeps_the_share() -> None:
    rng = np.random.default_rng(4)
    distinct = unit(rng, 5, 16)
    pooled = pool_tokens(np.repeat(distinct, 2, axis=0), 2)
    np.testing.assert_allclose(pooled, distinct, atol=1e-6)
    assert [len(pool_tokens(unit(rng, n, 16), 3)) for n in (0, 1, 3, 4, 7)] == [0, 1, 1, 2, 3]
    np.testing.assert_allclose(np.linalg.norm(pool_tokens(unit(rng, 30, 16), 4), axis=1), 1, atol=1e-5)


def test_the_scores_of_padding_words_and_regions_never_count(path) -> None:
    down = -np.ones((1, 4), np.float32) / 2
    store = store_of([down], "float32", 4)
    scores = maxsim(
        [store],
        RaggedQueries(-down, np.array([0, 1])),
        Pairs(np.zeros(1, np.int32), np.zeros(1, int), np.array([0, 1])),
    )
    assert scores.tolist() == [-1.0]  # a zero-filled lane would lift it to 0
