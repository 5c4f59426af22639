"""Galleries of cut global embeddings: engines rank as loops over hand-cut vectors do; files and versions."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from modeling_tgdt.gallery.manifest import Manifest
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.duplicates import find_duplicates
from tests.modeling_tgdt.gallery.index_twin import Twin, ragged, unit
from tests.modeling_tgdt.gallery.test_exact import engine_settings
from tests.modeling_tgdt.gallery.test_hubness import HubTwin, check

DIM, KEPT = 10, 6


def cut(vectors: np.ndarray) -> np.ndarray:
    """By hand: the first numbers, divided by their length."""
    return np.stack([row[:KEPT] / np.sqrt((row[:KEPT].astype(np.float64) ** 2).sum()) for row in vectors]).astype(
        np.float32
    )


class CutTwin(HubTwin):
    """The twin whose queries are cut by hand, as its items were."""

    def scores(self, query_global, query_tokens, query_kind=None, where=None):
        return super().scores(cut(query_global[None])[0], query_tokens, query_kind, where)


def filled(path: Path, hubs: bool = False, **options) -> tuple[TGDTIndex, Twin, np.random.Generator]:
    rng = np.random.default_rng(7)
    settings = {"dim": DIM, "token_dtype": "float32", "segment_rows": 40, "global_weight": 0.7, **options}
    index = TGDTIndex.create(path, global_dim=KEPT, hubness=hubs, **settings)
    twin = CutTwin({}, kind=index.kind, global_weight=0.7)
    for first in (0, 50):
        names = [f"{n:03}" for n in range(first, first + 50)]
        vectors, tokens, years = unit(rng, 50, DIM), ragged(rng, 50, 4, DIM, 1), [{"year": n % 3} for n in range(50)]
        numbers = rng.normal(scale=0.3 * hubs, size=50).astype(np.float32)
        index.add(names, vectors, tokens, metadata=years, hubness=numbers if hubs else None)
        twin.add(names, cut(vectors), tokens, years)
        twin.hubness |= dict(zip(names, numbers.tolist(), strict=True))
    index.delete(["003"])
    del twin.items["003"]
    return index, twin, rng


@pytest.mark.parametrize("hubs", [False, True], ids=["", "hubness"])
@pytest.mark.parametrize("engine", ["exact", "no kernel", "faiss", "edge", "local"])
def test_every_engine_ranks_by_the_cut_embeddings(tmp_path, engine, hubs, request, without_kernel, caplog) -> None:
    own = {} if engine in ("exact", "no kernel") else engine_settings(engine, request)
    if engine == "no kernel":
        without_kernel()
    index, twin, rng = filled(tmp_path / "g", hubs, **own)
    check(index, twin, rng)
    index.compact()
    index.close()
    with caplog.at_level(logging.WARNING):  # FAISS would say here that it does not take the file for its own
        index = TGDTIndex.open(tmp_path / "g", engine_options=own.get("engine_options") if engine == "local" else None)
        check(index, twin, rng)
    assert not caplog.records and index.global_dim == KEPT and index.verify() == []
    vectors, tokens = index.get(["001", "060"])
    np.testing.assert_allclose(vectors, [twin.items[name][0] for name in ("001", "060")], atol=1e-6)
    np.testing.assert_array_equal(tokens[1], twin.items["060"][1])  # tokens keep their length


def test_embeddings_that_are_cut_already_are_taken_as_they_are(tmp_path) -> None:
    index, twin, rng = filled(tmp_path / "g")
    vectors = unit(rng, 2, DIM)
    index.add(["whole"], vectors[:1], ragged(rng, 1, 3, DIM, 1))
    index.add(["cut"], index.truncate(vectors[:1]), ragged(rng, 1, 3, DIM, 1))
    whole, own = index.get(["whole", "cut"])[0]
    np.testing.assert_array_equal(whole, own)  # bit for bit, so that equal pictures tie
    np.testing.assert_array_equal(index.truncate(vectors)[0], own)
    assert find_duplicates(index, 0.999) == [["cut", "whole"]]
    for wrong in (unit(rng, 1, KEPT - 1), unit(rng, 1, DIM + 1)):
        with pytest.raises(ValueError, match=rf"shape \(N, {DIM}\)"):
            index.add(["x"], wrong, ragged(rng, 1, 3, DIM, 1))
    with pytest.raises(ValueError, match="zero vector"):
        index.add(["x"], [[0.0] * KEPT + [1.0] * (DIM - KEPT)], ragged(rng, 1, 3, DIM, 1))


def test_only_galleries_that_use_it_need_a_newer_release(tmp_path) -> None:
    for name, chosen in (("plain", None), ("whole", DIM), ("cut", KEPT)):
        TGDTIndex.create(tmp_path / name, dim=DIM, global_dim=chosen)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["format_version"] == (3 if name == "cut" else 1)
        assert ("global_dim" in manifest["settings"]) == (name == "cut")
    index, _, _ = filled(tmp_path / "g")
    sizes = {path.name: path.stat().st_size for path in next((tmp_path / "g").glob("segment-*")).iterdir()}
    assert sizes["globals.f32"] == 4 * KEPT * 50 and sizes["codes.i8"] == KEPT * 50
    for wrong in (0, DIM + 1):
        with pytest.raises(ValueError, match="global_dim must be at"):
            TGDTIndex.create(tmp_path / "no", dim=DIM, global_dim=wrong)
        with pytest.raises(ValueError, match=f"global_dim is {wrong}"):
            Manifest({**index.settings, "global_dim": wrong}).check()
