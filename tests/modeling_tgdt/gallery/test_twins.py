# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Galleries of very many equal embeddings, against searches that score every row."""

from pathlib import Path

import numpy as np
import pytest

from modeling_tgdt.gallery import exact, twins
from modeling_tgdt.index_tgdt import TGDTIndex
from tests.modeling_tgdt.gallery.index_twin import unit

DIM, ITEMS = 8, 400


def gallery(path: Path) -> TGDTIndex:
    """Items in three segments, of 30 embeddings in all, one of them of most items; some are deleted."""
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(path, dim=DIM, token_dtype="float32", segment_rows=150)
    kinds = np.minimum(rng.geometric(0.1, ITEMS) - 1, 29) * (rng.random(ITEMS) < 0.5)
    vectors, names = unit(rng, 30, DIM), [f"{n:04}" for n in rng.permutation(ITEMS)]
    vectors[29] = -vectors[0]
    for own in np.split(np.arange(ITEMS), 4):
        metadata = {"odd": (own % 2).tolist()}
        index.add([names[n] for n in own], vectors[kinds[own]], unit(rng, len(own), 2, DIM), metadata=metadata)
    index.delete(names[:40])
    return index


@pytest.mark.parametrize(("path", "collide"), [("kernel", False), ("torch", True)])
def test_twins_are_found_as_if_each_was_scored(tmp_path, path, collide, without_kernel, monkeypatch) -> None:
    if path == "torch":
        without_kernel()
    if collide:  # the hash tells nothing apart
        monkeypatch.setattr(twins, "_factors", lambda width: np.zeros(width, np.uint64))
    index, rng = gallery(tmp_path / "g"), np.random.default_rng(1)
    segments = index._backend.gallery.snapshot.segments
    queries = np.concatenate([unit(rng, 3, DIM), segments[0].globals[:4]])
    words = unit(rng, len(queries), 3, DIM)
    for where in (None, {"odd": 1}, {"ids": ["0001", "0300"]}):
        for k in (7, 250):
            for mode in ("global", "two_stage"):
                results = []
                for many in (ITEMS, -ITEMS - 500):  # scored one by one; then as twins
                    monkeypatch.setattr(exact, "_MANY_TIES", many)
                    index._backend.gallery.snapshot.twins = None
                    for _ in range(2):
                        found = index.search(queries, words, top_k=k, candidates=k, mode=mode, where=where)
                    results.append(found)
                slow, quick = results
                assert index._backend.gallery.snapshot.twins is not None
                assert quick.ids == slow.ids and min(map(len, slow.ids)) > 0
                assert all(map(np.array_equal, quick.scores, slow.scores))
                assert all(map(np.array_equal, quick.global_scores, slow.global_scores))


def test_one_row_stands_for_equal_embeddings(tmp_path, monkeypatch) -> None:
    index = gallery(tmp_path / "g")
    snapshot = index._backend.gallery.snapshot
    found = twins.find_twins(snapshot.segments, snapshot.id_ranks)
    vectors = np.concatenate([segment.globals for segment in snapshot.segments])
    assert [int((vectors == row).all(axis=1).argmax()) for row in vectors] == found.first.tolist()
    assert found.leaders.sum() == len(np.unique(vectors, axis=0))
    monkeypatch.setattr(exact, "_MANY_TIES", 50)
    index.search(vectors[:1], mode="global", top_k=3)
    assert snapshot.twins is not None
    index.add(["new"], vectors[:1], vectors[None, :1], metadata={"odd": [0]})  # another commit, other twins
    assert index.search(vectors[:1], mode="global", top_k=999).ids[0].count("new") == 1
