# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The reported cost of token pooling against galleries that were built with it."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_tgdt.encoding_tgdt import Embeddings
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.pooling import pooling_costs
from tests.modeling_tgdt.gallery.index_twin import ragged, unit

DIM, ITEMS, QUERIES = 12, 60, 15


@pytest.mark.parametrize("token_dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_cost_is_that_of_a_gallery_built_with_the_factor(tmp_path, kind, token_dtype) -> None:
    rng = np.random.default_rng(0)
    names, vectors, tokens = [f"{i:02}" for i in range(ITEMS)], unit(rng, ITEMS, DIM), ragged(rng, ITEMS, 9, DIM, 1)
    queries = Embeddings(unit(rng, QUERIES, DIM), ragged(rng, QUERIES, 5, DIM, 1))
    query_kind = "text" if kind == "image" else "image"
    built = {}
    for factor in (1, 2, 3):
        built[factor] = TGDTIndex.create(
            tmp_path / str(factor), dim=DIM, kind=kind, token_dtype=token_dtype, pool_factor=factor, scale=4.0
        )
        built[factor].add(names, vectors, tokens)
    asked, options = (queries.global_embeds, queries.token_embeds), {"top_k": 5, "candidates": 20}
    expected = built[1].search(*asked, **options).ids
    for cost in pooling_costs(built[1], queries, query_kind, [1, 2, 3], **options):
        found = built[cost.factor].search(*asked, **options).ids
        shares = [len(set(a) & set(b)) / 5 for a, b in zip(expected, found, strict=True)]
        tolerance = 0 if token_dtype == "float32" else 0.1  # int8 rows are rounded twice
        assert abs(cost.recall - np.mean(shares)) <= tolerance
        assert cost.factor > 1 or (cost.recall, cost.top_1) == (1.0, 1.0)
        size = sum(path.stat().st_size for path in built[cost.factor].path.glob("segment-*/tokens*"))
        if set(names) == {name for own in built[1].search(*asked, top_k=20, mode="global").ids for name in own}:
            assert cost.bytes * ITEMS == pytest.approx(size)


def test_refusals(tmp_path) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    queries = Embeddings(unit(rng, 1, DIM), ragged(rng, 1, 5, DIM, 1))
    with pytest.raises(ValueError, match="at least one sample query and one item"):
        pooling_costs(index, queries, "text", [2])
    with pytest.raises(ValueError, match="must be at least 1"):
        pooling_costs(index, queries, "text", [2, 0])


@pytest.mark.parametrize("token_dtype", ["float32", "float16", "bfloat16", "int16", "int8"])
def test_embeddings_are_read_back(tmp_path, token_dtype) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, token_dtype=token_dtype, segment_rows=4)
    names, vectors, tokens = list("abcdefghij"), unit(rng, 10, DIM), ragged(rng, 10, 5, DIM)
    for start in range(0, 10, 3):
        index.add(names[start : start + 3], vectors[start : start + 3], tokens[start : start + 3])
    index.add(["b"], vectors[:1], tokens[:1])
    found, rows = index.get(["j", "b", "c"])
    np.testing.assert_array_equal(found, vectors[[9, 0, 2]])
    for own, place in zip(rows, (9, 0, 2), strict=True):
        assert own.shape == tokens[place].shape
        np.testing.assert_allclose(own, tokens[place], atol=1e-2)
    assert index.get([])[0].shape == (0, DIM)
    with pytest.raises(KeyError, match="1 ids are not in the gallery, such as \\['z'\\]"):
        index.get(["a", "z"])
