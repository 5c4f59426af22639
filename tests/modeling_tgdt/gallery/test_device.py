"""A gallery in the memory of a device ranks as the files do: deletions, filters, later commits, every dtype."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_tgdt.gallery import device as device_module
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.kernels.quantize import STORAGE_DTYPES
from tests.modeling_tgdt.gallery.index_twin import ragged, unit

DIM, ITEMS = 24, 60
DEVICES = [
    # The code path of a device in the memory of the CPU; `to("cpu")` itself goes back to the files.
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=["torch", "triton"], autouse=True)
def kernels(request, monkeypatch) -> None:
    """Score tokens by PyTorch, or by Triton, which interprets its kernels in the memory of the CPU."""
    if request.param == "triton" and find_spec("triton") is None:
        pytest.skip("needs the package triton")
    monkeypatch.setattr(device_module, "triton_scores", lambda *_: request.param == "triton")


def make(path: Path, **options) -> tuple[TGDTIndex, np.random.Generator]:
    rng = np.random.default_rng(3)
    index = TGDTIndex.create(path, dim=DIM, segment_rows=25, **options)
    for first in range(0, ITEMS, 20):
        years = [{"year": int(year)} for year in rng.integers(2020, 2023, 20)]
        names = [f"{i:03}" for i in range(first, first + 20)]
        index.add(names, unit(rng, 20, DIM), ragged(rng, 20, 9, DIM), metadata=years)
    index.delete(["003", "041"])
    return index, rng


def move(index: TGDTIndex, device: str) -> None:
    index._backend.device = torch.device(device)  # type: ignore[union-attr]


def assert_same(ours, expected) -> None:
    """Equal but for float32 rounding, which may swap neighbours whose scores are as good as equal."""
    for query in range(len(expected.ids)):
        known = dict(zip(expected.ids[query], expected.scores[query], strict=True))
        np.testing.assert_allclose(ours.scores[query], expected.scores[query], atol=2e-5)
        for name, score in zip(ours.ids[query], ours.scores[query], strict=True):
            assert abs(known.get(name, expected.scores[query][-1]) - score) < 2e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("token_dtype", sorted(STORAGE_DTYPES))
def test_every_mode_ranks_as_the_files(tmp_path, device, token_dtype, kind) -> None:
    index, rng = make(tmp_path / "g", kind=kind, token_dtype=token_dtype)
    query, tokens = unit(rng, 7, DIM), ragged(rng, 7, 12, DIM)
    asked = [
        {"mode": mode, "where": where, "top_k": 15, "candidates": 20}
        for mode in ("two_stage", "global", "local")
        for where in (None, {"year": [2021]})
    ]
    expected = [index.search(query, tokens, **options) for options in asked]
    shortlist = index.search(query, tokens, mode="global", top_k=8).ids
    reranked = index.rerank(query, tokens, None, shortlist)
    move(index, device)
    for options, found in zip(asked, expected, strict=True):
        assert_same(index.search(query, tokens, **options), found)
    assert_same(index.rerank(query, tokens, None, shortlist), reranked)


@pytest.mark.parametrize("device", DEVICES)
def test_later_commits_are_copied_and_deletions_need_no_copy(tmp_path, device) -> None:
    index, rng = make(tmp_path / "g")
    vector, words = unit(rng, 1, DIM), unit(rng, 1, 4, DIM)
    move(index, device)
    index.search(vector, words)
    copy = index._backend._resident  # type: ignore[union-attr]
    index.delete(index.search(vector, words).ids[0][:1])
    index.search(vector, words)
    assert index.refresh() is False
    index.search(vector, words)
    assert index._backend._resident is copy  # type: ignore[union-attr]
    index.add(["new"], vector, words)
    found = index.search(vector, words)
    assert found.ids[0][0] == "new" and found.scores[0][0] == pytest.approx(2, abs=2e-3)
    index.compact()
    assert index.search(vector, words).ids == found.ids


@pytest.mark.parametrize("device", DEVICES)
def test_small_pieces_change_nothing(tmp_path, device, monkeypatch) -> None:
    index, rng = make(tmp_path / "g", token_dtype="float32")
    query, tokens = unit(rng, 9, DIM), ragged(rng, 9, 12, DIM)
    move(index, device)
    whole = index.search(query, tokens, top_k=30, candidates=40)
    monkeypatch.setattr(device_module, "_SCORES", 100)
    monkeypatch.setattr("modeling_tgdt.kernels.torch_maxsim._VALUES", {device: 2000})
    assert_same(index.search(query, tokens, top_k=30, candidates=40), whole)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_the_default_dtype_change_nothing(tmp_path, device) -> None:
    index, rng = make(tmp_path / "g")
    query, tokens = unit(rng, 4, DIM), ragged(rng, 4, 6, DIM)
    move(index, device)
    expected = index.search(query, tokens, top_k=20)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast(device, torch.bfloat16):
            found = index.search(query, tokens, top_k=20)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.ids == expected.ids
    assert_same(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_ties_are_in_the_order_of_the_ids(tmp_path, device) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, segment_rows=4)
    rng = np.random.default_rng(0)
    vector, tokens = unit(rng, 1, DIM), unit(rng, 1, 3, DIM)
    names = [str(n) for n in rng.permutation(20)]
    for name in names:
        index.add([name], vector, tokens)
    move(index, device)
    for mode in ("global", "two_stage", "local"):
        assert index.search(vector, tokens, top_k=5, candidates=9, mode=mode).ids[0] == sorted(names)[:5]


@pytest.mark.parametrize("device", DEVICES)
def test_items_and_queries_without_tokens_score_zero(tmp_path, device) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    move(index, device)
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, DIM), np.float32)
    assert index.search(unit(rng, 1, DIM), [nothing]).ids == [[]]
    assert index.search(np.zeros((0, DIM)), [], mode="local").ids == []
    index.add(["bare"], unit(rng, 1, DIM), [nothing])
    assert index.search(unit(rng, 1, DIM), unit(rng, 1, 3, DIM)).local_scores[0].tolist() == [0]
    index.add(["full", "last"], unit(rng, 2, DIM), [unit(rng, 2, DIM), nothing])
    found = index.search(unit(rng, 2, DIM), [nothing, unit(rng, 1, DIM)])
    assert found.local_scores[0].tolist() == [0, 0, 0]
    assert [name for name, score in zip(found.ids[1], found.local_scores[1], strict=True) if score] == ["full"]


def test_moving_and_moving_back(tmp_path, monkeypatch) -> None:
    index, rng = make(tmp_path / "g")
    assert index.to("cpu") is index and index._backend.device is None  # type: ignore[union-attr]

    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(device_module, "_upload", full)
    with pytest.raises(MemoryError, match="token_dtype='int8'"):
        index.to("cuda")
    assert len(index.search(unit(rng, 1, DIM), unit(rng, 1, 3, DIM)).ids[0]) == 10


@pytest.mark.gpu
def test_to_cuda_holds_one_copy(tmp_path) -> None:
    index, rng = make(tmp_path / "g")
    query, tokens = unit(rng, 3, DIM), ragged(rng, 3, 5, DIM)
    expected = index.search(query, tokens)
    assert_same(index.to("cuda").search(query, tokens), expected)
    copy = index._backend._resident  # type: ignore[union-attr]
    assert copy.globals.is_cuda
    index.search(query, tokens)
    assert index._backend._resident is copy  # type: ignore[union-attr]
