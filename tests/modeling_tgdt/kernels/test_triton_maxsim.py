"""Max-sum by Triton, interpreted where there is no CUDA device, against nested loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeling_tgdt.kernels.quantize import STORAGE_DTYPES, encode_tokens
from tests.modeling_tgdt.gallery.index_twin import TOLERANCE, local_similarity, ragged

pytest.importorskip("triton", reason="needs the package triton")
from modeling_tgdt.kernels.triton_maxsim import TokenSpans, triton_maxsim  # noqa: E402
from modeling_tgdt.triton_similarity_tgdt import tile_size  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def spans_of(parts: list[np.ndarray], chosen: np.ndarray, token_dtype: str) -> TokenSpans:
    counts = np.array([len(part) for part in parts])
    rows, scales = encode_tokens(np.concatenate(parts), token_dtype)
    tokens = torch.from_numpy(rows.view(np.int16) if token_dtype == "bfloat16" else rows)
    places = [torch.from_numpy(part[chosen]).to(DEVICE) for part in (counts.cumsum() - counts, counts)]
    return TokenSpans(
        (tokens.view(torch.bfloat16) if token_dtype == "bfloat16" else tokens).to(DEVICE),
        None if scales is None else torch.from_numpy(scales[:, :1].copy()).to(DEVICE),
        *places,
    )


@pytest.mark.parametrize("token_dtype", sorted(STORAGE_DTYPES))
@pytest.mark.parametrize(("dim", "most"), [(7, 9), (100, 30), (32, 150)])
def test_equals_nested_loops(token_dtype: str, dim: int, most: int) -> None:
    rng = np.random.default_rng(dim)
    texts, images = [*ragged(rng, 4, most, dim), np.zeros((0, dim), np.float32)], ragged(rng, 5, most, dim)
    images.insert(2, np.zeros((0, dim), np.float32))
    chosen = rng.integers(0, 5, 12), rng.integers(0, 6, 12)
    scores = triton_maxsim(spans_of(texts, chosen[0], token_dtype), spans_of(images, chosen[1], token_dtype))
    assert scores.dtype == torch.float32
    for score, text, image in zip(scores.tolist(), *chosen, strict=True):
        expected = local_similarity(texts[text], images[image], "sum", 1.0)
        assert abs(score - expected) < TOLERANCE[token_dtype] * max(1, len(texts[text]))


def test_a_pair_score_does_not_depend_on_the_other_pairs() -> None:
    rng = np.random.default_rng(2)
    texts, images = ragged(rng, 6, 20, 24, least=1), ragged(rng, 6, 20, 24, least=1)
    whole = triton_maxsim(*(spans_of(parts, np.arange(6), "bfloat16") for parts in (texts, images)))
    alone = [
        triton_maxsim(*(spans_of(parts, np.array([n]), "bfloat16") for parts in (texts, images))) for n in range(6)
    ]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-6, rtol=0)


def test_no_pairs_no_scores() -> None:
    side = spans_of([np.ones((3, 4), np.float32)], np.zeros(0, np.int64), "float32")
    assert triton_maxsim(side, side).shape == (0,)


def test_tiles_hold_what_there_is_between_16_and_64() -> None:
    assert [tile_size(count) for count in (0, 1, 16, 17, 33, 64, 65, 500)] == [16, 16, 16, 32, 64, 64, 64, 64]
