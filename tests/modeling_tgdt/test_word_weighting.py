"""Learned weights of words: where they start, what they mean, and that a gallery needs to know nothing of them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_tgdt import TGDTIndex, TGDTModel, token_similarity
from tests.modeling_tgdt import tiny

INPUTS = tiny.text_inputs() | tiny.region_inputs()


@pytest.fixture
def model() -> TGDTModel:
    model = tiny.tiny_model(word_weighting="learned")
    nn.init.normal_(model.word_weight.weight, std=2.0)
    return model


def test_words_weigh_alike_at_first() -> None:
    plain, weighted = tiny.tiny_model(), tiny.tiny_model(word_weighting="learned")
    weighted.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(weighted(**INPUTS).logits_per_image, plain(**INPUTS).logits_per_image)


@torch.no_grad()
def test_the_score_is_a_weighted_mean_of_best_cosines(model: TGDTModel) -> None:
    out = model(**INPUTS)
    lengths = out.text_token_embeds.norm(dim=-1)
    words = nn.functional.normalize(out.text_token_embeds, dim=-1)
    found = token_similarity(
        out.image_token_embeds, out.text_token_embeds, out.image_token_mask, out.text_token_mask, reduction="mean"
    )
    for caption in range(tiny.BATCH):
        mask = out.text_token_mask[caption]
        kept = words[caption][mask]
        weights = model.word_weight(kept)[:, 0].softmax(0)
        torch.testing.assert_close(lengths[caption][mask], weights * len(kept))
        for image in range(tiny.BATCH):
            regions = out.image_token_embeds[image][out.image_token_mask[image]]
            expected = ((kept @ regions.T).max(1).values * weights).sum()
            torch.testing.assert_close(found[image, caption], expected, atol=1e-5, rtol=1e-5)


def test_weights_are_learned(model: TGDTModel) -> None:
    model.config.objective = "infonce"
    model(**INPUTS, return_loss=True).loss.backward()
    assert model.word_weight.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("token_dtype", ["float32", "int16", "int8"])
@torch.no_grad()
def test_galleries_of_both_kinds_score_what_the_model_scores(
    model: TGDTModel, tmp_path: Path, token_dtype: str
) -> None:
    out = model(**INPUTS)
    ids = [str(row) for row in range(tiny.BATCH)]
    images = [out.image_token_embeds[row][out.image_token_mask[row]].numpy() for row in range(tiny.BATCH)]
    texts = [out.text_token_embeds[row][out.text_token_mask[row]].numpy() for row in range(tiny.BATCH)]
    sides = {"image": (out.image_embeds, images), "text": (out.text_embeds, texts)}
    expected = out.logits_per_image.numpy()
    for kind, query in (("image", "text"), ("text", "image")):
        (embeds, tokens), (query_embeds, queries) = sides[kind], sides[query]
        with TGDTIndex.create(tmp_path / kind, dim=tiny.DIM, kind=kind, token_dtype=token_dtype) as index:
            index.add(ids, embeds.numpy(), tokens)
            result = index.search(query_embeds.numpy(), queries, top_k=tiny.BATCH)
        for row, (found, scores) in enumerate(zip(result.ids, result.scores, strict=True)):
            order = [int(name) for name in found]
            wanted = expected[order, row] if kind == "image" else expected[row, order]
            assert abs(scores - wanted).max() < (1e-4 if token_dtype != "int8" else 2e-2)
