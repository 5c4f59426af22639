"""Evaluation with hubs corrected, against plain loops; and the bank that a run collects."""

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.similarity_tgdt import ScoreConfig
from tests.trainer.tiny import caption_of, tiny_model, tiny_processor
from trainer.evaluation import evaluate_retrieval, retrieval_metrics
from trainer.scoring.embeddings import RaggedTokens, RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions
from trainer.scoring.hubness import collect_reference_queries

PHOTOS, CAPTIONS, WEIGHT = 40, 80, 0.7


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def gallery() -> RetrievalEmbeddings:
    """Captions near their photos, and a few photos and captions that lie near everything."""
    images, owners = unit(PHOTOS, 8, seed=0), torch.arange(CAPTIONS) % PHOTOS
    images[:4] += 2 * F.normalize(images.mean(0), dim=0)
    images = F.normalize(images, dim=1)
    texts = F.normalize(images[owners] + unit(CAPTIONS, 8, seed=1), dim=1)
    tokens = [RaggedTokens.from_lengths(unit(3 * n, 8, seed=n), torch.full((n,), 3)) for n in (PHOTOS, CAPTIONS)]
    return RetrievalEmbeddings(images, texts, owners, *tokens)


def slow_recall(scores: np.ndarray, relevant: list[set[int]], k: int) -> float:
    best = [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in scores]
    return 100 * float(np.mean([bool(found & wanted) for found, wanted in zip(best, relevant, strict=True)]))


def test_rows_with_correction_are_those_of_plain_loops(gallery: RetrievalEmbeddings) -> None:
    bank = HubnessOptions(unit(30, 8, seed=2), unit(50, 8, seed=3), neighbors=5, strength=0.6)
    score = ScoreConfig(WEIGHT, 0.5)
    modes: list = ["global", "local", "exhaustive", "two_stage"]
    found = retrieval_metrics(gallery, score=score, modes=modes, candidates=1000, hubness=bank)
    plain = retrieval_metrics(gallery, score=score, modes=modes, candidates=1000)
    assert {mode: found[mode] for mode in modes} == plain  # the rows without it are as ever
    assert set(found) - set(modes) == {"global_hubness", "exhaustive_hubness", "two_stage_hubness"}

    cosines = (gallery.image_embeds @ gallery.text_embeds.T).numpy()
    of_image = [0.6 * np.sort((bank.text_embeds @ item).numpy())[-5:].mean() for item in gallery.image_embeds]
    of_text = [0.6 * np.sort((bank.image_embeds @ item).numpy())[-5:].mean() for item in gallery.text_embeds]
    captions = [{photo, photo + PHOTOS} for photo in range(PHOTOS)]
    photos = [{caption % PHOTOS} for caption in range(CAPTIONS)]
    assert gallery.image_tokens is not None and gallery.text_tokens is not None
    regions, words = gallery.image_tokens.flat.view(PHOTOS, 3, 8), gallery.text_tokens.flat.view(CAPTIONS, 3, 8)
    local = torch.einsum("ird,twd->itwr", regions, words).amax(-1).mean(-1).numpy()
    for name, mixed in (("global", cosines), ("two_stage", WEIGHT * cosines + 0.5 * local)):
        weight = WEIGHT if name == "two_stage" else 1.0
        for k in (1, 5):
            i2t = slow_recall(mixed - weight * np.array(of_text), captions, k)
            t2i = slow_recall((mixed - weight * np.array(of_image)[:, None]).T, photos, k)
            row = found[f"{name}_hubness"]
            assert (row[f"i2t_r{k}"], row[f"t2i_r{k}"]) == pytest.approx((i2t, t2i))
    assert found["two_stage_hubness"] != pytest.approx(found["two_stage"])


def test_the_correction_acts_before_the_shortlist(gallery: RetrievalEmbeddings) -> None:
    bank = HubnessOptions(unit(30, 8, seed=2), unit(50, 8, seed=3), neighbors=5, strength=2.0)
    found = retrieval_metrics(gallery, modes=["two_stage"], candidates=4, hubness=bank)
    assert found["two_stage_hubness"]["stage1_recall"] != found["two_stage"]["stage1_recall"]


def test_a_run_collects_a_bank_of_bounded_size_by_id() -> None:
    features = np.random.default_rng(0).normal(size=(12, 4, 16)).astype(np.float32)
    rows = {
        "region_features": list(features),
        "captions": [[caption_of(n), caption_of(n, 1)] for n in range(12)],
        "image_id": [f"photo{n}" for n in range(12)],
    }
    photos = datasets.Dataset.from_dict(rows)
    model, quiet = tiny_model(pixels=False), EncodeOptions(progress=False)
    bank = collect_reference_queries(model, tiny_processor(), photos, 5, quiet)
    assert (len(bank.image_embeds), len(bank.text_embeds)) == (5, 10)
    again = collect_reference_queries(model, tiny_processor(), photos.shuffle(seed=1), 5, quiet)
    torch.testing.assert_close(again.image_embeds.sort(0).values, bank.image_embeds.sort(0).values)
    whole = collect_reference_queries(model, tiny_processor(), photos, 100, quiet)
    assert len(whole.image_embeds) == 12
    found = evaluate_retrieval(
        model, tiny_processor(), photos, modes=["global"], hubness=bank, timed_queries=0, options=quiet
    )
    assert list(found) == ["global", "global_hubness"]
