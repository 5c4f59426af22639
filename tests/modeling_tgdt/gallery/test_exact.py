"""Stage-one engines: the same answers as the exact one at the same shortlist, or a stated recall."""

from __future__ import annotations

import numpy as np
import pytest

from modeling_tgdt.gallery.faiss_engine import FaissEngine, faiss
from modeling_tgdt.gallery.scan import exact_best
from modeling_tgdt.index_tgdt import TGDTIndex
from tests.modeling_tgdt.gallery.index_twin import ragged, unit

DIM = 16
FAISS = {"engine": "faiss", "engine_options": {"min_rows": 50, "ef_search": 64}}


def gallery(path, items=200, *, rng_seed=0, **options) -> TGDTIndex:
    rng = np.random.default_rng(rng_seed)
    index = TGDTIndex.create(path, dim=DIM, token_dtype="float32", **options)
    metadata = {"year": [i % 5 for i in range(items)], "tag": [f"t{i % 3}" for i in range(items)]}
    index.add([f"{i:04}" for i in range(items)], unit(rng, items, DIM), ragged(rng, items, 6, DIM), metadata=metadata)
    return index


def engine_settings(engine: str, request: pytest.FixtureRequest) -> dict:
    """Return the settings of an engine; skip the test when its library is missing."""
    if engine == "faiss":
        pytest.importorskip("faiss")
        return FAISS
    pytest.importorskip("qdrant_client")
    if engine == "server":
        request.getfixturevalue("monkeypatch").setenv("QDRANT_API_KEY", "secret")
        return {"engine": "qdrant", "engine_options": {"url": request.getfixturevalue("server")[0]}}
    if engine == "edge":
        pytest.importorskip("qdrant_edge")
    return {"engine": "qdrant", "engine_options": {"embedded": engine}}


@pytest.mark.parametrize("path", ["kernel", "torch"])
@pytest.mark.parametrize("dim", [3, 64])
def test_the_exact_engine_finds_what_a_full_sort_finds(tmp_path, without_kernel, dim, path) -> None:
    if path == "torch":
        without_kernel()
    rng = np.random.default_rng(1)
    index = TGDTIndex.create(tmp_path / "g", dim=dim, segment_rows=500)
    for batch in range(3):
        vectors = unit(rng, 700, dim) * rng.uniform(0.1, 3, (700, 1)).astype(np.float32)
        vectors[100:130] = vectors[5] * (10 if batch == 2 else 1)  # ties, at the border for some queries
        index.add([f"{batch}-{i}" for i in range(700)], vectors, [np.zeros((0, dim))] * 700)
    segments = index._backend.gallery.snapshot.segments
    vectors = np.concatenate([segment.globals for segment in segments])
    queries = np.concatenate([unit(rng, 60, dim), vectors[:6]])
    for allowed in (None, rng.random(2100) < 0.5):
        kept = np.ones(2100, bool) if allowed is None else allowed
        found = exact_best(segments, queries, 20, allowed, threads=2)
        for place, query in enumerate(queries.astype(np.float64)):
            own = slice(found.offsets[place], found.offsets[place + 1])
            scores = vectors.astype(np.float64) @ query
            scores[~kept] = -np.inf
            border = np.sort(scores)[-20]
            assert set(np.flatnonzero(scores > border + 1e-6)) <= set(found.rows[own])
            assert (scores[found.rows[own]] >= border - 1e-6).all() and len(set(found.rows[own])) >= 20
            assert (np.diff(found.scores[own]) <= 0).all()
            np.testing.assert_allclose(found.scores[own], scores[found.rows[own]], atol=1e-4)
            twins = (vectors == vectors[found.rows[own][-1]]).all(axis=1)
            assert set(np.flatnonzero(twins & kept)) <= set(found.rows[own])


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("where", [None, {"year": [1, 3], "tag": "t2"}])
@pytest.mark.parametrize("mode", ["two_stage", "global", "local"])
@pytest.mark.parametrize("engine", ["faiss", "edge", "local", "server"])
def test_same_answers_as_exact(tmp_path, engine, mode, where, kind, request) -> None:
    options = {"kind": kind, "scale": 3.0, "global_weight": 0.7}
    exact = gallery(tmp_path / "exact", **options)
    other = gallery(tmp_path / "other", **options, **engine_settings(engine, request))
    other.compact()
    rng = np.random.default_rng(5)
    for index in (exact, other):
        index.add(
            ["0001", "new"],
            unit(np.random.default_rng(6), 2, DIM),
            unit(np.random.default_rng(7), 2, 3, DIM),
            None,
            {"year": [1, 2]},
        )
        index.delete(["0002", "0033"])
        assert len(index) == 199 and "new" in index and "0002" not in index
    query, tokens = unit(rng, 4, DIM), ragged(rng, 4, 5, DIM, 1)
    arguments = {"top_k": 8, "candidates": 20, "mode": mode, "where": where}
    expected, found = exact.search(query, tokens, **arguments), other.search(query, tokens, **arguments)
    assert found.ids == expected.ids and found.metadata == expected.metadata
    for ours, theirs in ((found.scores, expected.scores), (found.global_scores, expected.global_scores)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(found.local_scores, expected.local_scores, atol=1e-3)
    shortlist = [names[:5] for names in expected.ids]
    assert exact.rerank(query, tokens, None, shortlist).ids == other.rerank(query, tokens, None, shortlist).ids


def test_faiss_is_rebuilt_by_compact_stored_and_reopened(tmp_path) -> None:
    pytest.importorskip("faiss")
    index = gallery(tmp_path / "g", items=2000, **FAISS)
    assert not list((tmp_path / "g").glob("engine-*"))
    index.compact()
    assert len(list((tmp_path / "g").glob("engine-*"))) == 1 and index.verify() == []
    query = unit(np.random.default_rng(1), 30, DIM)
    index.close()
    found = TGDTIndex.open(tmp_path / "g").search(query, mode="global").ids
    expected = gallery(tmp_path / "exact", items=2000).search(query, mode="global").ids
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall > 0.95
    path = next((tmp_path / "g").glob("engine-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    damaged = TGDTIndex.open(tmp_path / "g")
    assert any("engine-" in line for line in damaged.verify())
    with pytest.raises(ValueError, match=r"engine-.*is damaged. compact\(\) builds it again"):
        damaged.search(query, mode="global")
    damaged.compact()
    assert damaged.search(query, mode="global").ids == found


@pytest.mark.parametrize(
    "factory",
    ["IVF8,PQ4x4", "IVF8,SQ8", "Flat", "OPQ4_16,IVF8,PQ4x4", "IVF8,PQ4x4,RFlat", "PCA8,HNSW8,RFlat"],
)
def test_faiss_factories(tmp_path, factory) -> None:
    pytest.importorskip("faiss")
    options = {"min_rows": 50, "factory": factory, "nprobe": 8, "oversample": 30}
    index = gallery(tmp_path / "g", items=600, engine="faiss", engine_options=options)
    index.compact()
    query = unit(np.random.default_rng(1), 5, DIM)
    expected = gallery(tmp_path / "exact", items=600).search(query, mode="global", where={"year": [1, 2]}).ids
    assert index.search(query, mode="global", where={"year": [1, 2]}).ids == expected


def test_the_wrapped_index_is_searched_as_broadly_as_asked() -> None:
    """Three of 64 cells find less than all of them: the number of cells reaches the index inside the transform."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows, queries = unit(rng, 3000, DIM), unit(rng, 20, DIM)
    found = {}
    for nprobe in (3, 64):
        engine = FaissEngine(factory="OPQ4_16,IVF64,SQ8,RFlat", nprobe=nprobe)
        index = faiss.index_factory(DIM, engine.factory, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        index.add(rows)
        found[nprobe] = engine._approximate(index, queries, 10, None)
    exact = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    shares = {n: np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found[n], exact, strict=True)]) for n in found}
    assert shares[3] < 0.7 and shares[64] > 0.9


@pytest.mark.parametrize("factory", ["PQ4x4", "IVF1024,Flat", "typo"])
def test_a_factory_that_cannot_be_built_or_filter_is_refused_by_compact(tmp_path, factory) -> None:
    pytest.importorskip("faiss")
    index = gallery(tmp_path / "g", engine="faiss", engine_options={"min_rows": 50, "factory": factory})
    with pytest.raises(ValueError, match=f"found '{factory}' for 200 items: .*Choose another"):
        index.compact()
    assert index.verify() == [] and len(index.search(unit(np.random.default_rng(1), 1, DIM), mode="global").ids[0])


def test_a_reader_whose_engine_file_a_writer_removed_is_told_to_refresh(tmp_path) -> None:
    pytest.importorskip("faiss")
    index = gallery(tmp_path / "g", **FAISS)
    index.compact()
    reader = TGDTIndex.open(tmp_path / "g")
    for _ in range(2):  # the second one removes the file that the reader opens at its first search
        index.compact()
    query = unit(np.random.default_rng(1), 1, DIM)
    with pytest.raises(ValueError, match=r"engine-.* is gone.*refresh\(\) the index"):
        reader.search(query, mode="global")
    assert reader.refresh() and reader.search(query, mode="global").ids == index.search(query, mode="global").ids


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"engine": "exact", "engine_options": {"x": 1}}, ValueError, "takes no options"),
        ({"engine": "qdrant", "engine_options": {"host": "h"}}, ValueError, r"found \['host'\]"),
        ({"engine": "qdrant", "engine_options": {"embedded": "x"}}, ValueError, r"'embedded'\] must be one of"),
        ({"engine": "faiss", "engine_options": {"speed": 1}}, TypeError, "speed"),
    ],
)
def test_unknown_options_are_refused_before_anything_is_written(tmp_path, options, error, match) -> None:
    with pytest.raises(error, match=match):
        TGDTIndex.create(tmp_path / "g", dim=DIM, **options)
    assert not (tmp_path / "g").exists()
