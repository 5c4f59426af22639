# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Galleries in Qdrant: embedded stores, filters, and the contract with a server. Rankings: `test_engines_tgdt.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from modeling_tgdt.index_tgdt import TGDTIndex
from tests.modeling_tgdt.gallery.index_twin import unit

pytest.importorskip("qdrant_client")
from tests.modeling_tgdt.gallery.qdrant_server import KEY, Server, qdrant_server  # noqa: E402

DIM = 8


def batch(seed: int, items: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return [f"{seed}-{i:03}" for i in range(items)], unit(rng, items, DIM), unit(rng, items, 3, DIM)


@pytest.fixture(params=["edge", "local"])
def embedded(request, tmp_path):
    if request.param == "edge":
        pytest.importorskip("qdrant_edge")
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, engine="qdrant", engine_options={"embedded": request.param})
    yield index
    index.close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    monkeypatch.setattr("modeling_tgdt.gallery.qdrant.connection.time.sleep", lambda seconds: None)
    with qdrant_server() as running:
        yield running


def on_server(path, address: str, **options) -> TGDTIndex:
    return TGDTIndex.create(path, dim=DIM, engine="qdrant", engine_options={"url": address, **options})


def test_an_embedded_store_reopens_and_goes_on_after_close(embedded) -> None:
    names, vectors, tokens = batch(0, 300)
    embedded.add(names, vectors, tokens)
    before = embedded.search(vectors[:2], tokens[:2])
    embedded.compact()
    embedded.close()
    assert embedded.search(vectors[:2], tokens[:2]).ids == before.ids
    assert embedded.to("cpu") is embedded and embedded.refresh() is False  # every search sees the newest state
    with pytest.raises(ValueError, match="where Qdrant runs"):
        embedded.to("cuda")
    embedded.close()
    named = {"embedded": embedded.settings["engine_options"]["embedded"]}
    again = TGDTIndex.open(embedded.path, engine_options=named)
    assert sorted(again) == names and len(again) == 300 and again.verify() == []
    assert again.search(vectors[:2], tokens[:2]).ids == before.ids
    with pytest.raises(RuntimeError, match=r"Another index|already accessed"):
        TGDTIndex.open(embedded.path, engine_options=named)
    again.close()


def test_filters_tell_types_apart_as_the_exact_engine_does(embedded, tmp_path) -> None:
    names, vectors, tokens = batch(0, 4)
    values = {"n": [1, 2, 2**60, -5], "x": [1.0, 2.5, 2.5, 0.0], "a.b": ["p", "q", "p", ""], "t": [True, False] * 2}
    exact = TGDTIndex.create(tmp_path / "exact", dim=DIM)
    for index in (embedded, exact):
        index.add(names, vectors, tokens, metadata=values)
    conditions = [
        {"n": 1}, {"n": [2, -5]}, {"n": 2**60}, {"x": 1}, {"x": [2.5, 0]}, {"a.b": "p"}, {"a.b": ["q", ""]},
        {"t": True}, {"t": [False], "x": 2.5}, {"n": []}, {"a.b": "nothing"},
    ]  # fmt: skip
    for where in conditions:
        for mode in ("two_stage", "global", "local"):
            arguments = {"mode": mode, "where": where}
            expected = exact.search(vectors[:1], tokens[:1], **arguments)
            assert embedded.search(vectors[:1], tokens[:1], **arguments).ids == expected.ids, where
    with pytest.raises(ValueError, match="callable, which Qdrant cannot run"):
        embedded.search(vectors[:1], mode="global", where={"n": lambda n: n > 1})
    with pytest.raises(TypeError, match="compares with strings, numbers, booleans and times"):
        embedded.search(vectors[:1], mode="global", where={"n": None})


def test_an_embedded_gallery_survives_a_kill(tmp_path) -> None:
    pytest.importorskip("qdrant_edge")
    TGDTIndex.create(tmp_path / "g", dim=DIM, engine="qdrant", engine_options={"embedded": "edge"}).close()
    program = (
        "import os, sys, numpy as np; from modeling_tgdt.index_tgdt import TGDTIndex\n"
        f"index, rng = TGDTIndex.open({str(tmp_path / 'g')!r}), np.random.default_rng(0)\n"
        "for step in range(10_000):\n"
        f"    index.add([str(step)], rng.normal(size=(1, {DIM})), rng.normal(size=(1, 3, {DIM})))\n"
        "    os.write(1, b'.')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        done = len(writer.stdout.read(40))
        writer.send_signal(signal.SIGKILL)
        done += len(writer.stdout.read())
    with TGDTIndex.open(tmp_path / "g") as index:
        assert set(map(str, range(done))) <= set(index) <= set(map(str, range(done + 1)))


def test_what_a_server_is_asked_for(tmp_path, server: tuple[str, Server]) -> None:
    address, state = server
    cluster = {"shard_number": 6, "replication_factor": 2, "write_consistency_factor": 2}
    index = on_server(tmp_path / "g", address, collection="photos", exact=True, hnsw_ef=128, **cluster)
    made = state.collection
    assert made is not None and {name: getattr(made, name) for name in cluster} == cluster
    tokens = made.vectors["tokens"]
    assert tokens.multivector_config.comparator.value == "max_sim" and tokens.hnsw_config.m == 0
    assert (tokens.datatype.value, made.vectors["global"].hnsw_config) == ("float16", None)
    names, vectors, own = batch(0, 130)
    index.add(names, vectors, own, metadata={"year": [1] * 130, "a b": ["x"] * 130})
    assert state.fields == {"meta.year": "integer", 'meta."a b"': "keyword"}
    assert [path for verb, path in state.requests if "points?" in path] == ["/collections/photos/points?wait=true"] * 3
    state.requests.clear()
    found = index.search(vectors[:70], own[:70], top_k=1)
    assert [ids[0] for ids in found.ids] == names[:70]
    queries = [request for request in state.requests if request != ("GET", "/")]
    assert queries == [("POST", "/collections/photos/points/query/batch")] * 3
    assert KEY not in (tmp_path / "g" / "manifest.json").read_text()
    assert json.loads((tmp_path / "g" / "manifest.json").read_text())["settings"]["engine_options"]["url"] == address
    index.close()
    again = TGDTIndex.open(tmp_path / "g", engine_options={"url": address})
    assert len(again) == 130 and again.delete(names[:5]) == 5 and len(again) == 125 and names[5] in again


def test_writes_are_retried_and_written_once(tmp_path, server: tuple[str, Server]) -> None:
    address, state = server
    index = on_server(tmp_path / "g", address)
    state.failures = [503, "lost", 429, "lost"]
    index.add(*batch(0, 70))
    assert state.failures == [] and len(index) == 70
    index.add(*batch(0, 70))
    assert len(index) == 70


@pytest.mark.filterwarnings("ignore:.*version")
def test_a_server_that_stays_away_is_named(tmp_path, server: tuple[str, Server]) -> None:
    address, state = server
    index = on_server(tmp_path / "g", address)
    state.failures = [503] * 5
    with pytest.raises(ConnectionError, match=f"{address} did not answer 5 times in a row.*Check that it runs"):
        index.add(*batch(0, 2))
    index.add(*batch(0, 2))
    assert len(index) == 2
    with pytest.raises(ConnectionError, match="127.0.0.1:9 did not answer"):
        on_server(tmp_path / "h", "http://127.0.0.1:9")
    assert not (tmp_path / "h" / "manifest.json").exists()


def test_a_refusal_is_not_repeated(tmp_path, server: tuple[str, Server], monkeypatch) -> None:
    address, state = server
    monkeypatch.setenv("QDRANT_API_KEY", "wrong")
    with pytest.raises(Exception, match="401"):
        on_server(tmp_path / "g", address)
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    index = on_server(tmp_path / "h", address)
    state.failures = [400, 503]
    with pytest.raises(Exception, match="400"):
        index.add(*batch(0, 2))
    assert state.failures == [503]


def test_two_writers_of_a_server(tmp_path, server: tuple[str, Server], monkeypatch) -> None:
    first = on_server(tmp_path / "g", server[0])
    monkeypatch.setenv("QDRANT_URL", server[0])
    second = TGDTIndex.open(tmp_path / "g")
    first.add(*batch(0, 5))
    second.add(*batch(1, 5))
    assert sorted(first) == sorted(second) == [f"{seed}-{i:03}" for seed in (0, 1) for i in range(5)]
