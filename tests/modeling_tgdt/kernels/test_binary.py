"""Binary tokens: signs and factors against plain loops, and galleries that read int8 rows for the nearest only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_tgdt.gallery import local
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.kernels import binary
from modeling_tgdt.kernels.binary import binary_maxsim, decode_bits, encode_bits
from modeling_tgdt.kernels.quantize import bits_width, bytes_per_token, decode_tokens, encode_tokens
from modeling_tgdt.kernels.ragged import Pairs, RaggedQueries, TokenStore
from modeling_tgdt.kernels.ranking import offsets_of
from tests.modeling_tgdt.gallery.index_twin import Twin, ragged, unit

DIM = 12


def signs_of(tokens: np.ndarray) -> np.ndarray:
    """By hand: the sign of every number times the mean size of its token's."""
    return np.array([[np.mean(np.abs(row)) * (1 if value >= 0 else -1) for value in row] for row in tokens])


@pytest.mark.parametrize("dim", [3, 8, 20])
def test_bits_keep_the_sign_of_every_number_and_a_factor(dim: int) -> None:
    tokens = unit(np.random.default_rng(0), 50, dim)
    codes, scales = encode_tokens(tokens, "int8")
    bits = encode_bits(codes, scales)
    assert bits.shape == (50, bits_width(dim)) and bytes_per_token(dim, "binary") == dim + 8 + bits_width(dim)
    signs, factors = decode_bits(bits, dim)
    np.testing.assert_allclose(signs * factors[:, :1], signs_of(codes * scales[:, :1]), rtol=1e-3)
    np.testing.assert_array_equal(factors[:, 1], signs.sum(axis=1))
    assert decode_bits(bits[:0], dim)[0].shape == (0, dim)


@pytest.mark.parametrize("sum_over", ["query", "stored"])
def test_scores_are_those_of_loops_over_signs(monkeypatch: pytest.MonkeyPatch, sum_over: Any) -> None:
    monkeypatch.setattr(binary, "_ROWS", 7)  # several blocks, and items that are larger than one
    rng = np.random.default_rng(1)
    parts = [ragged(rng, 9, 12, DIM), ragged(rng, 4, 5, DIM)]
    stores = []
    for own in parts:
        codes, scales = encode_tokens(np.concatenate(own), "int8")
        offsets = offsets_of(np.array([len(part) for part in own]))
        stores.append(TokenStore(codes, scales, offsets, "int8", encode_bits(codes, scales)))
    queries = [unit(rng, 3, DIM), unit(rng, 0, DIM), unit(rng, 2, DIM)]
    pairs = [(n, i) for n, own in enumerate(parts) for i in range(len(own))]
    numbers, items = (np.array(column) for column in zip(*pairs, strict=True))
    each = Pairs(np.tile(numbers, 3).astype(np.int32), np.tile(items, 3), np.arange(4) * len(pairs))
    asked = RaggedQueries(np.concatenate(queries), offsets_of(np.array([3, 0, 2])))
    found = binary_maxsim(stores, asked, each, sum_over=sum_over).reshape(3, -1)
    for words, row in zip(queries, found, strict=True):
        for (number, item), score in zip(pairs, row, strict=True):
            products = words @ signs_of(parts[number][item]).reshape(-1, DIM).T
            sides = products if sum_over == "query" else products.T
            expected = sides.max(axis=1).sum() if sides.size else 0.0
            assert score == pytest.approx(expected, abs=0.06 * max(1, len(sides)))
    nobody = Pairs(numbers[:0].astype(np.int32), items[:0], np.zeros(4, np.int64))
    assert len(binary_maxsim(stores, asked, nobody)) == 0


def galleries(root: Path, **options: Any) -> tuple[TGDTIndex, TGDTIndex, Twin, np.random.Generator]:
    """The same items with int8 tokens, with binary ones, and in a twin of int8 tokens."""
    rng = np.random.default_rng(2)
    made = [
        TGDTIndex.create(root / name, dim=DIM, token_dtype=name, segment_rows=30, **options)
        for name in ("int8", "binary")
    ]
    for first in (0, 40):
        names = [f"{n:03}" for n in range(first, first + 40)]
        batch = unit(rng, 40, DIM), ragged(rng, 40, 5, DIM, 1)
        for index in made:
            index.add(names, *batch)
    twin = Twin(kind=made[0].kind)
    twin.add(names := sorted(made[0]), *made[0].get(names))
    return made[0], made[1], twin, rng


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("mode", ["two_stage", "local"])
def test_the_nearest_by_bits_are_ranked_by_int8(
    tmp_path: Path, mode: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RESCORED", 3)
    int8, bits, twin, rng = galleries(tmp_path, kind=kind)
    signs = Twin(kind=kind)
    signs.items = {name: (v, signs_of(tokens), row) for name, (v, tokens, row) in twin.items.items()}
    queries, words = unit(rng, 3, DIM), ragged(rng, 3, 4, DIM, 1)
    found = bits.search(queries, words, mode=mode, top_k=4, candidates=30)
    for place, ids in enumerate(found.ids):
        rounded = decode_tokens(*encode_tokens(words[place], "int8"), "int8")  # as the kernel does
        near = signs.search(queries[place], rounded, mode=mode, top_k=12, candidates=30)
        exact = int8.rerank(queries[place : place + 1], words[place : place + 1], None, [near])
        scores = {"two_stage": exact.scores, "local": exact.local_scores}[mode][0]
        order = sorted(range(12), key=lambda row: (-scores[row], exact.ids[0][row]))
        assert ids == [exact.ids[0][row] for row in order[:4]]
        np.testing.assert_allclose(found.scores[place], scores[order[:4]], atol=1e-6)
    everything = {
        "mode": mode,
        "top_k": 30,
        "candidates": 80,
    }  # 3 x 30 are more: int8 ranks all
    assert bits.search(queries, words, **everything).ids == int8.search(queries, words, **everything).ids


def test_bits_are_kept_through_every_way_of_writing(tmp_path: Path) -> None:
    int8, bits, _, rng = galleries(tmp_path)
    for index in (int8, bits):
        index.delete(["003", "050"])
        index.copy(["004"], ["copy of 004"])
        index.update_metadata(["005"], [{"year": 2024}])
        index.compact()
        index.close()
    opened = TGDTIndex.open(tmp_path / "binary")
    assert opened.verify() == [] and opened.settings["token_dtype"] == "binary"
    for segment in opened._backend.gallery.snapshot.segments:  # type: ignore[union-attr]
        np.testing.assert_array_equal(segment.store.bits, encode_bits(segment.store.rows, segment.store.scales))
    for own, other in zip(opened.tokens(sorted(opened)), int8.tokens(sorted(int8)), strict=True):
        np.testing.assert_array_equal(own, other)
    with pytest.raises(ValueError, match="Qdrant has no binary tokens"):
        TGDTIndex.create(tmp_path / "no", dim=DIM, token_dtype="binary", engine="qdrant")
    query = unit(rng, 1, DIM), unit(rng, 1, 2, DIM)
    opened._backend.device = torch.device("cpu")  # type: ignore[union-attr]
    np.testing.assert_allclose(opened.search(*query).scores, int8.search(*query).scores, atol=1e-5)
