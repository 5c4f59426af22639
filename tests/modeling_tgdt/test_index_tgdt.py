"""TGDTIndex against its slow twin, the recorded reference ranking, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.kernels.quantize import STORAGE_DTYPES
from tests.modeling_tgdt.gallery.index_twin import TOLERANCE, Twin, ragged, unit

FIXTURE = Path(__file__).parents[1] / "fixtures" / "reference" / "retrieval_small.safetensors"
DIM = 12


def make(path: Path, items: int = 30, **options) -> tuple[TGDTIndex, np.random.Generator]:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(path, dim=DIM, **options)
    if items:
        index.add([f"id{i:03}" for i in range(items)], unit(rng, items, DIM), ragged(rng, items, 6, DIM, 1))
    return index, rng


def same_ranking(result, position: int, scores: dict, expected: list[str], column: int, tolerance: float) -> None:
    """Equal ids, or ids whose true scores differ by less than the store's rounding."""
    found = result.ids[position]
    assert len(found) == len(expected) == len(set(found))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs or abs(scores[ours][column] - scores[theirs][column]) < tolerance


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_histories_equal_the_twin(data, tmp_path_factory) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    kind, token_dtype = (
        data.draw(st.sampled_from(["image", "text"])),
        data.draw(st.sampled_from(sorted(STORAGE_DTYPES))),
    )
    options = {
        "kind": kind,
        "reduction": data.draw(st.sampled_from(["mean", "sum"])),
        "scale": data.draw(st.sampled_from([1.0, 10.0])),
        "global_weight": data.draw(st.sampled_from([0.5, 1.0])),
    }
    twin = Twin(**options)
    index = TGDTIndex.create(
        tmp_path_factory.mktemp("g") / "gallery", dim=DIM, token_dtype=token_dtype, segment_rows=7, **options
    )
    for action in data.draw(st.lists(st.sampled_from(["add", "add", "delete", "compact", "reopen"]), max_size=8)):
        if action == "add":
            ids = [str(i) for i in rng.choice(25, size=int(rng.integers(1, 9)), replace=False)]
            values = [{"color": str(rng.choice(["red", "blue"])), "year": int(rng.integers(3))} for _ in ids]
            batch = (ids, unit(rng, len(ids), DIM), ragged(rng, len(ids), 5, DIM))
            index.add(*batch, metadata=values)
            twin.add(*batch, values)
        elif action == "delete" and twin.items:
            gone = sorted(twin.items)[: int(rng.integers(1, 4))]
            assert index.delete(gone) == len(gone)
            for name in gone:
                del twin.items[name]
        elif action == "compact":
            index.compact()
        elif action == "reopen":
            index.close()
            index = TGDTIndex.open(index.path)
    assert sorted(index) == sorted(twin.items) and len(index) == len(twin.items)
    assert index.verify() == []
    mode, query_kind = (
        data.draw(st.sampled_from(["two_stage", "global", "local"])),
        data.draw(st.sampled_from([None, "image", "text"])),
    )
    where = data.draw(st.sampled_from([None, {"color": ["red"]}, {"year": [0, 2], "color": ["blue"]}]))
    where = where if any("color" in values for _, _, values in twin.items.values()) else None
    query, tokens = unit(rng, 3, DIM), ragged(rng, 3, 5, DIM)
    # in mode two_stage rounding could only move the border of the shortlist through float32 globals, which are exact
    result = index.search(query, tokens, top_k=6, candidates=9, mode=mode, query_kind=query_kind, where=where)
    column = {"two_stage": 0, "global": 1, "local": 2}[mode]
    for place in range(3):
        expected = twin.search(
            query[place], tokens[place], top_k=6, candidates=9, mode=mode, query_kind=query_kind, where=where
        )
        scores = twin.scores(query[place], tokens[place], query_kind, where)
        tolerance = TOLERANCE[token_dtype] * options["scale"] * 6
        same_ranking(result, place, scores, expected, column, tolerance)
        for name, score in zip(result.ids[place], result.scores[place], strict=True):
            assert abs(score - scores[name][column]) < tolerance


@pytest.mark.parametrize("path", ["kernel", "torch"])
@pytest.mark.parametrize("shortlist", [(50, 20), (10, 5)])
def test_recorded_two_stage_ranks(tmp_path, without_kernel, path, shortlist) -> None:
    if path == "torch":
        without_kernel()
    golden = load_file(FIXTURE)
    images, captions = (golden[name].astype(np.float32) for name in ("images", "captions"))
    regions = [image[1:length] for image, length in zip(images, golden["img_len"], strict=True)]
    words = [caption[1 : max(length - 2, 1)] for caption, length in zip(captions, golden["cap_len"], strict=True)]
    options = {"dim": images.shape[2], "token_dtype": "float32", "reduction": "sum", "scale": 10.0}
    photos = TGDTIndex.create(tmp_path / "images", **options)
    photos.add([f"{i:04}" for i in range(len(images))], images[:, 0], regions)
    texts = TGDTIndex.create(tmp_path / "captions", kind="text", **options)
    texts.add([f"{i:04}" for i in range(len(captions))], captions[:, 0], words)

    def rank(names: list[str], right: set[str]) -> int:
        return next((place for place, name in enumerate(names) if name in right), -1)

    found = photos.search(captions[:, 0], words, top_k=60, candidates=shortlist[1]).ids
    t2i = [rank(names, {f"{i // 5:04}"}) for i, names in enumerate(found)]
    found = texts.search(images[:, 0], regions, top_k=300, candidates=shortlist[0]).ids
    i2t = [rank(names, {f"{5 * i + j:04}" for j in range(5)}) for i, names in enumerate(found)]
    prefix = f"two_stage_k{shortlist[0]}_k{shortlist[1]}."
    assert t2i == golden[prefix + "t2i_ranks_miss_is_minus1"].tolist()
    assert i2t == golden[prefix + "i2t_ranks_miss_is_minus1"].tolist()
    found = photos.search(captions[:, 0], words, top_k=60, mode="local").ids
    assert [rank(names, {f"{i // 5:04}"}) for i, names in enumerate(found)] == golden["local.t2i_ranks"].tolist()
    found = texts.search(images[:, 0], top_k=300, mode="global").ids
    ranks = [rank(names, {f"{5 * i + j:04}" for j in range(5)}) for i, names in enumerate(found)]
    assert ranks == golden["global.i2t_ranks"].tolist()


def test_k_equal_n_is_exhaustive_and_rerank_permutes(tmp_path) -> None:
    index, rng = make(tmp_path / "g")
    query, tokens = unit(rng, 2, DIM), unit(rng, 2, 4, DIM)
    everything = index.search(query, tokens, top_k=999, candidates=999)
    assert sorted(everything.ids[0]) == sorted(index)
    assert index.rerank(query, tokens, None, [sorted(index)] * 2).ids == everything.ids
    shortlist = index.search(query, tokens, top_k=7, mode="global").ids
    two_stage = index.search(query, tokens, top_k=7, candidates=7)
    assert [sorted(names) for names in two_stage.ids] == [sorted(names) for names in shortlist]
    assert index.rerank(query, tokens, None, shortlist).ids == two_stage.ids


@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_ties_are_in_the_order_of_the_ids(tmp_path, without_kernel, path) -> None:
    if path == "torch":
        without_kernel()
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, segment_rows=4)
    vector, tokens = unit(rng, 1, DIM), unit(rng, 1, 3, DIM)
    names = [str(n) for n in rng.permutation(20)]
    for name in names:
        index.add([name], vector, tokens)
    for mode in ("global", "two_stage", "local"):
        assert index.search(vector, tokens, top_k=5, candidates=9, mode=mode).ids[0] == sorted(names)[:5]


def test_masks_padding_tensors_and_lists_are_one(tmp_path) -> None:
    index, rng = make(tmp_path / "g")
    query, words = unit(rng, 2, DIM), ragged(rng, 2, 5, DIM, 1)
    padded, mask = np.full((2, 9, DIM), 7.0, np.float32), np.zeros((2, 9), bool)
    for place, own in enumerate(words):
        padded[place, : len(own)], mask[place, : len(own)] = own, True
    expected = index.search(query, words)
    for found in (
        index.search(query, padded, mask),
        index.search(torch.tensor(query), torch.tensor(padded), torch.tensor(mask).long()),
    ):
        assert found.ids == expected.ids
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_an_empty_word_list_scores_zero(tmp_path) -> None:
    index, rng = make(tmp_path / "g")
    assert index.search(unit(rng, 1, DIM), [np.zeros((0, DIM))], mode="local").local_scores[0].tolist() == [0.0] * 10


def test_filters(tmp_path) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    index.add(["a", "b"], unit(rng, 2, DIM), unit(rng, 2, 2, DIM), metadata=[{"id": 1, "tag": "x"}, {"id": 2.5}])
    index.add(["c"], unit(rng, 1, DIM), unit(rng, 1, 2, DIM))

    def found(where):
        result = index.search(unit(rng, 1, DIM), unit(rng, 1, 1, DIM), where=where)
        return dict(zip(result.ids[0], result.metadata[0], strict=True))

    assert found({"tag": "x"}) == {"a": {"id": 1.0, "tag": "x"}}
    assert set(found({"id": [1, 2.5]})) == {"a", "b"}
    assert set(found({"id": lambda value: value > 2})) == {"b"}
    assert found({"tag": "nothing"}) == {}
    assert set(found(None)) == {"a", "b", "c"}
    assert index.metadata_types == {"id": "double", "tag": "string"}
    with pytest.raises(ValueError, match=r"in where, \['id', 'tag'\], found 'colour'"):
        found({"colour": 1})
    with pytest.raises(TypeError, match="does not fit the column's type"):
        found({"id": "one"})
    with pytest.raises(TypeError, match="one type per key"):
        index.add(["d"], unit(rng, 1, DIM), unit(rng, 1, 2, DIM), metadata=[{"tag": 3}])
    assert len(index) == 3


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"n": 1.5}, ""), ({"n": 1.0}, "a"), ({"n": [1, 1.5, 2**70]}, "a"), ({"n": 2**63}, ""), ({"n": -(2**63)}, "c"),
        ({"n": float("nan")}, ""), ({"x": 1}, "a"), ({"x": [2**53 + 1, 3]}, "c"), ({"x": 10**400}, ""),
        ({"n": []}, ""), ({"t": True, "n": [1, 2]}, "a"), ({"p": 2.5}, "b"), ({"p": [1.1, 2.505, 10**9]}, "a"),
        ({"p": {"gt": 2}}, "bc"), ({"p": {"lte": 1.1}}, "a"), ({"p": {"lt": 2.505}}, "ab"), ({"p": float("nan")}, ""),
    ],
)  # fmt: skip
def test_numbers_match_by_value(tmp_path, where, expected) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    prices = [Decimal("1.10"), Decimal("2.50"), Decimal("9.99")]
    metadata = {"n": [1, 2, -(2**63)], "x": [1.0, 2.5, 3.0], "t": [True, False, True], "p": prices}
    index.add(list("abc"), unit(rng, 3, DIM), unit(rng, 3, 2, DIM), metadata=metadata)
    found = index.search(unit(rng, 1, DIM), mode="global", where=where).ids[0]
    assert "".join(sorted(found)) == expected


def test_metadata_comes_as_any_table(tmp_path) -> None:
    frame = pandas.DataFrame({"year": [1, 2, 3], "tag": ["x", "y", None]})
    tables = (frame[frame.year > 1], datasets.Dataset.from_pandas(frame).select([1, 2]), {"year": iter([2, 3])})
    for number, metadata in enumerate(tables):
        index, rng = TGDTIndex.create(tmp_path / str(number), dim=DIM), np.random.default_rng(0)
        index.add(["a", "b"], unit(rng, 2, DIM), unit(rng, 2, 2, DIM), metadata=metadata)
        found = index.search(unit(rng, 1, DIM), mode="global", where={"year": 3})
        assert (found.ids, found.metadata) == ([["b"]], [[{"year": 3}]])
    with pytest.raises(TypeError, match="'year' must hold one value per id, found the single value '24'"):
        index.add(["c", "d"], unit(rng, 2, DIM), unit(rng, 2, 2, DIM), metadata={"year": "24"})


@pytest.mark.parametrize("value", [2**70, "\ud800", object()])
def test_metadata_that_cannot_be_stored_is_refused(tmp_path, value) -> None:
    index, rng = make(tmp_path / "g", items=3)
    with pytest.raises(TypeError, match="mixes types or cannot be stored"):
        index.add(["a"], unit(rng, 1, DIM), unit(rng, 1, 2, DIM), metadata={"k": [value]})
    assert len(index) == 3


def test_another_process_finds_the_same(tmp_path) -> None:
    index, rng = make(tmp_path / "g", token_dtype="int8")
    query, tokens = unit(rng, 2, DIM), unit(rng, 2, 4, DIM)
    np.save(tmp_path / "query.npy", query)
    np.save(tmp_path / "tokens.npy", tokens)
    code = (
        "import json, numpy as np; from modeling_tgdt.index_tgdt import TGDTIndex; "
        f"root = {str(tmp_path)!r}; index = TGDTIndex.open(root + '/g'); "
        "found = index.search(np.load(root + '/query.npy'), np.load(root + '/tokens.npy')); "
        "print(json.dumps([found.ids, [s.tolist() for s in found.scores]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = index.search(query, tokens)
    assert json.loads(done.stdout) == [expected.ids, [scores.tolist() for scores in expected.scores]]


def test_an_index_that_outlives_the_modules_ends_in_silence(tmp_path) -> None:
    make(tmp_path / "g")[0].close()
    code = (
        "import os; from modeling_tgdt.index_tgdt import TGDTIndex; "
        f"os.kept = TGDTIndex.open({str(tmp_path / 'g')!r}); os.kept.delete(['id000'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_threads_that_share_an_index_lose_nothing(tmp_path) -> None:
    index, rng = make(tmp_path / "g", items=0)
    vectors, tokens = unit(rng, 4, 12, DIM), unit(rng, 4, 12, 2, DIM)
    begin = threading.Barrier(4)

    def write(thread: int) -> None:
        begin.wait()
        for item in range(12):
            index.add([f"{thread}-{item}"], vectors[thread, item : item + 1], tokens[thread, item : item + 1])
            if item % 4 == 3:
                index.delete([f"{thread}-{item - 1}"])
                index.close()
                index.refresh()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, thread) for thread in range(4)]:
            done.result()
    there = {f"{thread}-{item}" for thread in range(4) for item in range(12) if item % 4 != 2}
    for seen in (index, TGDTIndex.open(tmp_path / "g")):
        assert set(seen) == there and not seen.verify()
        np.testing.assert_allclose(seen.get(["3-7", "0-11"])[0], [vectors[3, 7], vectors[0, 11]], atol=1e-3)


def test_unicode_and_long_ids(tmp_path) -> None:
    rng = np.random.default_rng(0)
    names = ["", "猫/../图", "a\nb", "\0", "é", "e\u0301", "x" * 100_000, "🐈‍⬛"]
    index = TGDTIndex.create(tmp_path / "g", dim=DIM)
    index.add(names, unit(rng, len(names), DIM), unit(rng, len(names), 2, DIM))
    again = TGDTIndex.open(tmp_path / "g")
    assert list(again) == names and all(name in again for name in names)
    with pytest.raises(ValueError, match="lone surrogates"):
        index.add(["\ud800"], unit(rng, 1, DIM), unit(rng, 1, 2, DIM))


def test_pooling_stores_the_share(tmp_path) -> None:
    rng = np.random.default_rng(0)
    index = TGDTIndex.create(tmp_path / "g", dim=DIM, pool_factor=2)
    index.add(["a"], unit(rng, 1, DIM), unit(rng, 1, 9, DIM))
    assert json.loads((tmp_path / "g" / "manifest.json").read_text())["segments"][0]["tokens"] == 5


def test_an_empty_gallery_answers_with_empty_lists(tmp_path) -> None:
    index, rng = make(tmp_path / "g", items=0)
    assert index.search(unit(rng, 2, DIM), unit(rng, 2, 3, DIM)).ids == [[], []]
    index.compact()
    index.add([], np.zeros((0, DIM)), [])
    assert len(index) == 0 and index.verify() == [] and index.delete(["x"], missing_ok=True) == 0


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"global_embeds": np.ones((2, 5))}, ValueError, r"shape \(N, 12\), found \(2, 5\).*dim=12"),
        ({"global_embeds": np.ones((3, DIM))}, ValueError, "3 rows for 2 ids"),
        ({"global_embeds": np.zeros((2, DIM))}, ValueError, "row 0 is a zero vector"),
        ({"global_embeds": np.full((2, DIM), np.nan)}, ValueError, "NaN or infinity in row 0"),
        ({"token_embeds": np.full((2, 3, DIM), np.inf)}, ValueError, "token_embeds has NaN or infinity"),
        ({"token_embeds": np.ones((2, 3, 5))}, ValueError, r"shape \(N, T, 12\)"),
        ({"token_embeds": [np.ones((1, DIM))]}, ValueError, "holds 1 items, expected 2"),
        ({"token_mask": np.ones((2, 4))}, ValueError, r"must have shape \(2, 3\), found \(2, 4\)"),
        ({"token_mask": np.full((2, 3), 0.5)}, ValueError, "must be boolean"),
        ({"ids": ["a", "a"]}, ValueError, r"Duplicate ids in one call: \['a'\]"),
        ({"ids": [1, 2]}, TypeError, "ids must be strings"),
        ({"ids": "ab"}, TypeError, "single string"),
        ({"metadata": [{}]}, ValueError, "1 rows for 2 ids"),
        ({"metadata": [{"a": 1}, {"a": "x"}]}, TypeError, "mixes types"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(tmp_path, change, error, match) -> None:
    index, rng = make(tmp_path / "g", items=3)
    before = (tmp_path / "g" / "manifest.json").read_bytes()
    call = {"ids": ["a", "b"], "global_embeds": unit(rng, 2, DIM), "token_embeds": unit(rng, 2, 3, DIM), **change}
    with pytest.raises(error, match=match):
        index.add(**call)
    assert (tmp_path / "g" / "manifest.json").read_bytes() == before and len(index) == 3


def test_refusals_name_the_next_step(tmp_path) -> None:
    index, rng = make(tmp_path / "g", model_id="org/a")
    query, tokens = unit(rng, 1, DIM), unit(rng, 1, 2, DIM)
    with pytest.raises(ValueError, match="mode must be one of"):
        index.search(query, tokens, mode="fast")
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        index.search(query, tokens, top_k=0)
    with pytest.raises(ValueError, match="query_tokens are needed"):
        index.search(query)
    with pytest.raises(KeyError, match="missing_ok"):
        index.delete(["id000", "nobody"])
    assert "id000" in index
    with pytest.raises(KeyError, match="refresh"):
        index.rerank(query, tokens, None, [["nobody"]])
    with pytest.raises(ValueError, match="built with model_id='org/a', found 'org/b'"):
        index.check_model("org/b")
    index.check_model("org/a", "main")
    with pytest.raises(FileExistsError, match=r"Use open\(\)"):
        TGDTIndex.create(tmp_path / "g", dim=DIM)
    with pytest.raises(FileNotFoundError, match=r"Make one with create\(\)"):
        TGDTIndex.open(tmp_path / "nothing")
    for option in ({"token_dtype": "int4"}, {"engine": "magic"}, {"kind": "sound"}, {"reduction": "max"}, {"dim": 0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            TGDTIndex.create(tmp_path / "h", **{"dim": DIM, **option})
    assert not (tmp_path / "h").exists()


def test_another_format_version_is_refused(tmp_path) -> None:
    from modeling_tgdt.gallery.storage import read_json, replace_json

    make(tmp_path / "g")
    path = tmp_path / "g" / "manifest.json"
    replace_json(path, {**read_json(path), "format_version": 99})
    with pytest.raises(ValueError, match="format version 99, this tgdt reads up to version 3"):
        TGDTIndex.open(tmp_path / "g")


def test_repr_says_what_the_gallery_is(tmp_path) -> None:
    index, _ = make(tmp_path / "g", items=3, token_dtype="int8", model_id="me/model")
    assert repr(index) == (
        f"TGDTIndex({str(tmp_path / 'g')!r}, 3 items, kind='image', dim={DIM}, token_dtype='int8', engine='exact', "
        "model_id='me/model')"
    )


@pytest.mark.parametrize("mode", ["two_stage", "global", "local"])
def test_no_queries_give_no_results(tmp_path, mode) -> None:
    index, _ = make(tmp_path / "g")
    assert index.search(np.zeros((0, DIM)), [], mode=mode).ids == []
    assert index.rerank(np.zeros((0, DIM)), [], None, []).ids == []


def test_only_its_own_files_are_ever_removed(tmp_path) -> None:
    (tmp_path / "segment-anything").mkdir()
    mine = [tmp_path / "segment-anything" / "weights.bin", tmp_path / "engine-config.yaml", tmp_path / "deleted-1.txt"]
    for path in mine:
        path.write_text("mine")
    (tmp_path / "segment-0123456789ab").mkdir()  # what a killed writer leaves
    index, _ = make(tmp_path)
    index.delete(["id000"])
    index.compact()
    assert all(path.read_text() == "mine" for path in mine)
    assert not (tmp_path / "segment-0123456789ab").exists()


def test_a_write_that_never_began_leaves_the_lock_free(tmp_path, monkeypatch) -> None:
    index, rng = make(tmp_path / "g", items=0)
    index.close()
    batch = unit(rng, 1, DIM), unit(rng, 1, 2, DIM)
    with TGDTIndex.open(tmp_path / "g") as other:
        other.add(["theirs"], *batch)
    with monkeypatch.context() as patch:
        patch.setattr("modeling_tgdt.gallery.manifest.Manifest.read", lambda root: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.add(["ours"], *batch)
    index.add(["ours"], *batch)
    assert sorted(TGDTIndex.open(tmp_path / "g")) == ["ours", "theirs"]


def test_nothing_is_committed_that_could_not_be_opened(tmp_path) -> None:
    for bad in ({"segment_rows": sys.maxsize}, {"scale": float("nan")}, {"local_weight": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            TGDTIndex.create(tmp_path / "g", dim=DIM, **bad)
    index, rng = make(tmp_path / "g", items=3)
    with pytest.raises(ValueError, match="row 0 has the norm"):
        index.add(["huge"], np.full((1, DIM), 1e20, np.float32), unit(rng, 1, 2, DIM))
    assert sorted(TGDTIndex.open(tmp_path / "g")) == sorted(index) == ["id000", "id001", "id002"]
    assert index.verify() == []
