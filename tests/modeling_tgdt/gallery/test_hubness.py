"""Galleries whose items carry a hubness: every engine, mode and kind ranks as plain loops do; files and versions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_tgdt.gallery.manifest import Manifest
from modeling_tgdt.index_tgdt import TGDTIndex
from tests.modeling_tgdt.gallery.index_twin import Twin, ragged, unit
from tests.modeling_tgdt.gallery.test_exact import engine_settings

DIM, ITEMS = 10, 90


class HubTwin(Twin):
    """The twin, with a number per item that is subtracted from its dot product."""

    def __init__(self, hubness: dict[str, float], **options) -> None:
        super().__init__(**options)
        self.hubness = hubness

    def scores(self, query_global, query_tokens, query_kind=None, where=None):
        found = {}
        for name, (_, dot, local) in super().scores(query_global, query_tokens, query_kind, where).items():
            lowered = dot - self.hubness[name]
            found[name] = (self.weights[0] * lowered + self.weights[1] * local, lowered, local)
        return found


def filled(path: Path, **options) -> tuple[TGDTIndex, HubTwin, np.random.Generator]:
    """A gallery of three commits, a replaced and two deleted items; the numbers matter as much as the embeddings."""
    rng = np.random.default_rng(5)
    index = TGDTIndex.create(
        path, dim=DIM, token_dtype="float32", segment_rows=40, hubness=True, global_weight=0.7, **options
    )
    twin = HubTwin({}, kind=index.kind, global_weight=0.7)
    for first in (0, 30, 60):
        names = [f"{n:03}" for n in range(first, first + 30)] if first < 60 else ["004", *map(str, range(100, 129))]
        hubness = rng.normal(scale=0.3, size=30).astype(np.float32)
        batch = unit(rng, 30, DIM), ragged(rng, 30, 4, DIM, 1)
        years = [{"year": n % 3} for n in range(30)]
        index.add(names, *batch, metadata=years, hubness=hubness)
        twin.add(names, *batch, years)
        twin.hubness |= dict(zip(names, hubness.tolist(), strict=True))
    index.delete(["003", "101"])
    for name in ("003", "101"):
        del twin.items[name]
    return index, twin, rng


def check(index: TGDTIndex, twin: Twin, rng: np.random.Generator, **options) -> None:
    query, words = unit(rng, 4, DIM), ragged(rng, 4, 4, DIM, 1)
    for mode, column in (("global", 1), ("two_stage", 0), ("local", 2)):
        for where in (None, {"year": [0, 2]}):
            asked = {"top_k": 8, "candidates": 20, "mode": mode, "where": where}
            found = index.search(query, words, **asked, **options)  # type: ignore[arg-type]
            for place in range(4):
                scores = twin.scores(query[place], words[place], where=where)
                assert found.ids[place] == twin.search(query[place], words[place], **asked)  # type: ignore[arg-type]
                expected = np.array([scores[name] for name in found.ids[place]])
                np.testing.assert_allclose(found.scores[place], expected[:, column], atol=1e-5)
                np.testing.assert_allclose(found.global_scores[place], expected[:, 1], atol=1e-5)


def plain(twin: HubTwin) -> HubTwin:
    other = HubTwin(dict.fromkeys(twin.hubness, 0.0), kind=twin.kind, global_weight=0.7)
    other.items = twin.items
    return other


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("engine", ["exact", "no kernel", "device", "faiss", "edge", "local"])
def test_every_engine_subtracts_it_or_not(tmp_path, engine, kind, request, without_kernel) -> None:
    own = {} if engine in ("exact", "no kernel", "device") else engine_settings(engine, request)
    if engine == "no kernel":
        without_kernel()
    index, twin, rng = filled(tmp_path / "g", kind=kind, **own)
    if engine == "device":  # its code path, in the memory of the CPU
        index._backend.device = torch.device("cpu")  # type: ignore[union-attr]
    check(index, twin, rng)
    check(index, plain(twin), rng, hubness=False)
    index.compact()
    index.close()
    index = TGDTIndex.open(tmp_path / "g", engine_options=own.get("engine_options") if engine == "local" else None)
    check(index, twin, rng)
    query, words = unit(rng, 1, DIM), ragged(rng, 1, 3, DIM, 1)
    names = ["005", "100", "004", "017"]
    for on, slow in ((True, twin), (False, plain(twin))):
        scores = slow.scores(query[0], words[0])
        found = index.rerank(query, words, None, [names], hubness=on)
        assert found.ids[0] == sorted(names, key=lambda name: -scores[name][0])
    assert index.verify() == []


def test_it_is_read_back_and_no_part_of_the_embedding(tmp_path) -> None:
    index, twin, _ = filled(tmp_path / "g")
    names = ["004", "100", "059"]
    vectors, _ = index.get(names)
    np.testing.assert_array_equal(vectors, np.stack([twin.items[name][0] for name in names]))
    np.testing.assert_allclose(index.hubness(names), [twin.hubness[name] for name in names])
    assert index.has_hubness


def test_between_items_of_one_kind_it_plays_no_part(tmp_path) -> None:
    index, twin, rng = filled(tmp_path / "g")
    query, words = unit(rng, 1, DIM), ragged(rng, 1, 3, DIM, 1)
    found = index.search(query, words, query_kind="image", top_k=5, mode="global")
    assert found.ids[0] == plain(twin).search(query[0], words[0], top_k=5, candidates=5, mode="global")


def test_galleries_without_it_are_as_they_were(tmp_path) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "plain", dim=DIM)
    index.add(["a", "b"], unit(rng, 2, DIM), ragged(rng, 2, 3, DIM, 1))
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert manifest["format_version"] == 1 and "hubness" not in manifest["settings"]
    assert not list((tmp_path / "plain").rglob("bias.f32")) and index.hubness(["a", "b"]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="Expected hubness: none"):
        index.add(["c"], unit(rng, 1, DIM), ragged(rng, 1, 3, DIM, 1), hubness=[0.1])

    filled(tmp_path / "hubs")
    manifest = json.loads((tmp_path / "hubs" / "manifest.json").read_text())
    assert manifest["format_version"] == 2  # a release that would take the extra number for an embedding refuses it
    with pytest.raises(ValueError, match="hubness is 1"):
        Manifest({**manifest["settings"], "hubness": 1}).check()


@pytest.mark.parametrize("wrong", [None, [0.1], [[0.1, 0.2]], [0.1, float("nan")], [0.1, 1e30]])
def test_wrong_numbers_are_refused_and_nothing_is_added(tmp_path, wrong) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, hubness=True)
    with pytest.raises(ValueError, match="hubness"):
        index.add(["a", "b"], unit(rng, 2, DIM), ragged(rng, 2, 3, DIM, 1), hubness=wrong)
    assert len(index) == 0
