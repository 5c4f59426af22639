"""Token similarity against nested loops, autograd of the plain formula, and the recorded reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_tgdt import similarity_tgdt as module
from modeling_tgdt import token_similarity, token_similarity_pairs
from tests.reference import load_alignment


def slow_similarity(images, texts, image_mask, text_mask, reduction="sum", scale=1.0):
    """One pair, one word, one region at a time."""
    rows = []
    for image, regions in zip(images, image_mask, strict=True):
        row = []
        for text, words in zip(texts, text_mask, strict=True):
            best = [
                torch.stack([word @ region for region, real in zip(image, regions, strict=True) if real]).max()
                for word, spoken in zip(text, words, strict=True)
                if spoken and regions.any()
            ]
            total = torch.stack(best).sum() if best else image.sum() * 0
            row.append(scale * (total / max(len(best), 1) if reduction == "mean" else total))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def random_tokens(seed, images=3, texts=4, regions=5, words=6, dim=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    image_mask = torch.rand(images, regions, generator=generator) < 0.7
    text_mask = torch.rand(texts, words, generator=generator) < 0.7
    return draw(images, regions, dim), draw(texts, words, dim), image_mask, text_mask


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 4),
    texts=st.integers(1, 4),
    regions=st.integers(0, 5),
    words=st.integers(0, 5),
    reduction=st.sampled_from(["sum", "mean"]),
)
def test_values_and_gradients_equal_nested_loops(seed, images, texts, regions, words, reduction):
    a, b, image_mask, text_mask = random_tokens(seed, images, texts, regions, words)
    results = []
    for similarity in (token_similarity, slow_similarity):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        scores = similarity(x, y, image_mask, text_mask, reduction=reduction, scale=3.0)
        weights = torch.arange(scores.numel(), dtype=scores.dtype).view_as(scores) - 2
        gradients = torch.autograd.grad((scores * weights).sum(), (x, y), materialize_grads=True)
        results.append((scores.detach(), *gradients))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("elements", [1, 64, 1 << 22], ids=["one-row-chunks", "small-chunks", "one-chunk"])
def test_chunking_changes_nothing(monkeypatch, elements):
    a, b, image_mask, text_mask = random_tokens(0, images=6, texts=5)
    expected = slow_similarity(a, b, image_mask, text_mask)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", elements)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    torch.testing.assert_close(token_similarity(x, y, image_mask, text_mask), expected)
    rows, columns = torch.tensor([5, 0, 5, 2]), torch.tensor([1, 1, 4, 3])
    pairs = token_similarity_pairs(x, y, image_mask, text_mask, image_index=rows, text_index=columns)
    torch.testing.assert_close(pairs, expected[rows, columns])
    gradients = torch.autograd.grad(pairs.sum(), (x, y))
    picked = torch.zeros_like(expected).index_put((rows, columns), torch.ones(4, dtype=a.dtype), accumulate=True)
    whole = torch.autograd.grad((token_similarity(x, y, image_mask, text_mask) * picked).sum(), (x, y))
    torch.testing.assert_close(gradients, whole)


def test_aligned_rows_are_the_diagonal():
    a, b, image_mask, text_mask = random_tokens(3, images=4, texts=4)
    pairs = token_similarity_pairs(a, b, image_mask, text_mask, reduction="mean")
    torch.testing.assert_close(pairs, token_similarity(a, b, image_mask, text_mask, reduction="mean").diagonal())


def test_masked_regions_never_enter_the_maximum():
    region = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    word = torch.tensor([[[-1.0, 0.0]]])
    assert token_similarity(region, word, torch.tensor([[True, False]])).item() == -1.0
    assert token_similarity(region, word).item() == 0.0


def test_no_region_and_no_word_score_zero():
    a, b, image_mask, text_mask = random_tokens(4)
    image_mask[0], text_mask[1] = False, False
    for reduction in ("sum", "mean"):
        scores = token_similarity(a, b, image_mask, text_mask, reduction=reduction)
        assert scores[0].abs().max() == 0 and scores[:, 1].abs().max() == 0 and scores.isfinite().all()


@pytest.mark.parametrize(
    "empty", [{"words": 0}, {"regions": 0}, {"texts": 0}, {"images": 0}], ids=["words", "regions", "texts", "images"]
)
def test_empty_sides_score_zero_and_get_zero_gradients(empty):
    a, b, image_mask, text_mask = random_tokens(6, **empty)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    rows = torch.zeros(2 if len(a) and len(b) else 0, dtype=torch.int64)
    scores = token_similarity(x, y, image_mask, text_mask, reduction="mean")
    pairs = token_similarity_pairs(x, y, image_mask, text_mask, image_index=rows, text_index=rows)
    assert scores.shape == (len(a), len(b)) and pairs.shape == rows.shape
    (scores.sum() + pairs.sum()).backward()
    for zero in (scores, pairs, x.grad, y.grad):
        assert not zero.count_nonzero()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_float32(dtype):
    a, b, image_mask, text_mask = random_tokens(5, dtype=dtype)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    scores = token_similarity(x, y, image_mask, text_mask)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and x.grad.dtype == y.grad.dtype == dtype
    exact = slow_similarity(a.double(), b.double(), image_mask, text_mask)
    torch.testing.assert_close(scores.double(), exact, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("name", ["equal", "ragged", "edge"])
def test_recorded_similarities(name):
    data, regions, words = load_alignment(name)
    images = data["im_set"][:, 1:]
    exact = token_similarity(images, data["s_seq"], regions, words, scale=10.0)
    torch.testing.assert_close(exact, data["x10.similarity_true_max"], rtol=0, atol=2e-4)
    zero_filled = token_similarity(images * regions[..., None], data["s_seq"], None, words, scale=10.0)
    torch.testing.assert_close(zero_filled, data["x10.similarity"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3, 4)), {}, "Expected image tokens"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), {}, "of one width"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(2, 2)), {}, "image_mask must have shape"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)), {"reduction": "max"}, "reduction must be"),
    ],
)
def test_errors_name_what_was_found(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        token_similarity(*arguments, **options)


def test_pairs_need_both_sides():
    with pytest.raises(ValueError, match="found 2 images and 3 captions"):
        token_similarity_pairs(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))


def test_a_loss_may_read_the_transposed_similarities() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts, weights = (torch.randn(*shape, generator=generator) for shape in ((3, 4, 5), (2, 6, 5), (2, 3)))
    found = [tokens.requires_grad_() for tokens in (images.clone(), texts.clone())]
    (token_similarity(*found, reduction="mean").T * weights).sum().backward()
    expected = [tokens.requires_grad_() for tokens in (images.clone(), texts.clone())]
    best = torch.einsum("ird,twd->itwr", *expected).amax(-1).mean(-1)
    (best.T * weights).sum().backward()
    for ours, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.grad, slow.grad)
