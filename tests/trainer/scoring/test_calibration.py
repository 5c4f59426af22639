"""Score weights: the fitted mix ranks new photos as the best of a grid does, and in doubt the global score decides."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_tgdt.similarity_tgdt import ScoreConfig
from tests.trainer import tiny
from trainer import calibrate_scores
from trainer.evaluation import retrieval_metrics
from trainer.scoring.calibration import fit_score_weights
from trainer.scoring.embeddings import RaggedTokens, RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions

GLOBAL_ONLY = ScoreConfig(local_weight=0.0)


def gallery(photos: int, seed: int, global_noise: float = 1.0, local_noise: float = 1.0) -> RetrievalEmbeddings:
    """Photos with two captions of one word; what captions show of their photo is blurred by independent noise."""
    draw = torch.Generator().manual_seed(seed)
    owners = torch.arange(photos).repeat_interleave(2)
    sides = []
    for noise, dim in ((global_noise, 12), (local_noise, 6)):
        images = torch.randn(photos, dim, generator=draw)
        sides.append(
            (normalize(images), normalize(images[owners] + noise * torch.randn(len(owners), dim, generator=draw)))
        )
    (images, texts), (regions, words) = sides
    one = torch.ones(photos, dtype=torch.long)
    tokens = RaggedTokens.from_lengths(regions, one), RaggedTokens.from_lengths(words, one.repeat(2))
    return RetrievalEmbeddings(images, texts, owners, *tokens)


def rsum(embeddings: RetrievalEmbeddings, local_weight: float) -> float:
    score = ScoreConfig(local_weight=local_weight)
    return retrieval_metrics(embeddings, score=score, modes=("exhaustive",))["exhaustive"]["rsum"]


@pytest.mark.parametrize(("global_noise", "local_noise"), [(1.0, 0.6), (0.8, 1.5), (3.0, 0.5)])
def test_the_mix_is_that_of_a_grid_on_new_photos(global_noise: float, local_noise: float) -> None:
    weights = fit_score_weights(gallery(80, 0, global_noise, local_noise), GLOBAL_ONLY)
    assert weights.global_score_weight == 1 and weights.rsum > weights.rsum_before
    new = gallery(200, 1, global_noise, local_noise)
    best = max(rsum(new, weight) for weight in np.geomspace(0.05, 20, 25))
    assert rsum(new, weights.local_score_weight) > best - 8
    assert best > rsum(new, 0.0) + 15


def test_the_scale_of_the_tokens_does_not_matter() -> None:
    plain, scaled = (
        fit_score_weights(gallery(60, 0, 1.0, 0.6), ScoreConfig(local_weight=0.0, scale=scale))
        for scale in (1.0, 50.0)
    )
    assert scaled.local_score_weight == pytest.approx(plain.local_score_weight / 50, rel=1e-3)
    assert scaled.rsum == plain.rsum


@pytest.mark.parametrize("before", [0.0, 1.0])
def test_tokens_that_say_nothing_get_no_weight(before: float) -> None:
    weights = fit_score_weights(gallery(100, 0, 0.5, 1e6), ScoreConfig(local_weight=before))
    assert (weights.global_score_weight, weights.local_score_weight) == (1.0, 0.0)


@pytest.mark.parametrize("before", [0.0, 0.7])
def test_tokens_must_show_that_they_help(before: float) -> None:
    """Six photos cannot tell; ninety can, and what they show keeps weights that are as good as the fitted ones."""
    few = fit_score_weights(gallery(6, 0, 0.5, 1.2), ScoreConfig(local_weight=before))
    assert (few.global_score_weight, few.local_score_weight) == (1.0, 0.0)
    fitted = fit_score_weights(gallery(90, 0, 1.0, 0.9), GLOBAL_ONLY).local_score_weight
    kept = fit_score_weights(gallery(90, 0, 1.0, 0.9), ScoreConfig(2.0, 2.0 * fitted))
    assert (kept.global_score_weight, kept.local_score_weight) == (2.0, 2.0 * fitted)


def test_captions_of_unequal_number_and_photos_without_any() -> None:
    whole = gallery(40, 0, 1.0, 0.6)
    kept = torch.tensor([row for row in range(80) if row % 6 != 1 and row > 1])  # photo 0 has none, others one or two
    ragged = RetrievalEmbeddings(whole.image_embeds, whole.text_embeds[kept], whole.text_to_image[kept],
                                 whole.image_tokens, whole.text_tokens.select(kept))  # fmt: skip
    assert fit_score_weights(ragged, GLOBAL_ONLY).local_score_weight > 0


def test_an_untrained_model_is_calibrated_and_changed_on_request_only(tmp_path: Path) -> None:
    photos = datasets.Dataset.from_dict(tiny.photo_rows(tmp_path, 12)).cast_column("image", datasets.Image())
    model, processor, quiet = tiny.tiny_model(), tiny.tiny_processor(), EncodeOptions(progress=False)
    model.config.local_score_weight = 3.0
    model.config.global_score_weight = 2.0
    weights = calibrate_scores(model, processor, photos, options=quiet)
    assert (model.config.global_score_weight, model.config.local_score_weight) == (2.0, 3.0)
    assert calibrate_scores(model, processor, photos, apply=True, options=quiet) == weights
    assert model.config.local_score_weight == weights.local_score_weight
    with pytest.raises(ValueError, match="at least 2 with captions, found 1"):
        calibrate_scores(model, processor, photos.select([0]), options=quiet)
