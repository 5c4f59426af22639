"""Rankings recorded from the reference code, where it is right; where it is not, both numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hub_cards.metric.image_text_recall.image_text_recall import retrieval_summary
from modeling_tgdt.similarity_tgdt import ScoreConfig
from trainer.evaluation import retrieval_metrics
from trainer.scoring.embeddings import RaggedTokens, RetrievalEmbeddings
from trainer.scoring.positions import exhaustive_positions, two_stage_positions

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reference"
# The reference sums words and multiplies by ten.
SCORE = ScoreConfig(global_weight=1.0, local_weight=1.0, reduction="sum", scale=10.0)


def gallery(name: str) -> tuple[RetrievalEmbeddings, dict[str, torch.Tensor]]:
    data = load_file(FIXTURES / f"retrieval_{name}.safetensors")
    images, captions = data["images"].float(), data["captions"].float()
    # Slot 0 holds the global embedding; words are the slots 1 to cap_len - 3 (the reference drops two at the end).
    regions = torch.arange(images.shape[1] - 1) < data["img_len"].unique()[:, None].max()
    words = torch.arange(captions.shape[1] - 1) < (data["cap_len"] - 3)[:, None]
    if "img_len" in data and len(data["img_len"]) == len(images):
        regions = torch.arange(images.shape[1] - 1) < (data["img_len"] - 1)[:, None]
    embeddings = RetrievalEmbeddings(
        images[:, 0],
        captions[:, 0],
        torch.arange(len(captions)) // 5,
        RaggedTokens.from_padded(images[:, 1:], regions),
        RaggedTokens.from_padded(captions[:, 1:], words),
    )
    return embeddings, data


@pytest.mark.parametrize("name", ["small", "large"])
def test_global_ranks_equal_the_reference(name: str) -> None:
    embeddings, data = gallery(name)
    positions = exhaustive_positions(embeddings, SCORE.only("global"))
    np.testing.assert_array_equal(positions["i2t"][:, 0], data["global.i2t_ranks"])
    np.testing.assert_array_equal(positions["t2i"][:, 0], data["global.t2i_ranks"])


def test_local_ranks_equal_the_reference() -> None:
    embeddings, data = gallery("small")
    positions = exhaustive_positions(embeddings, SCORE.only("local"))
    np.testing.assert_array_equal(positions["i2t"][:, 0], data["local.i2t_ranks"])
    np.testing.assert_array_equal(positions["t2i"][:, 0], data["local.t2i_ranks"])


@pytest.mark.parametrize(("k_i2t", "k_t2i"), [(10, 5), (50, 20), (300, 60)])
def test_two_stage_ranks_equal_the_corrected_reference(k_i2t: int, k_t2i: int) -> None:
    embeddings, data = gallery("small")
    recorded = f"two_stage_k{k_i2t}_k{k_t2i}"
    for way, size in (("i2t", k_i2t), ("t2i", k_t2i)):
        final, _ = two_stage_positions(embeddings, way, size, SCORE)  # type: ignore[arg-type]
        np.testing.assert_array_equal(final[:, 0], data[f"{recorded}.{way}_ranks_fallback"])
        missed = data[f"{recorded}.{way}_ranks_miss_is_minus1"].numpy() < 0
        np.testing.assert_array_equal(final[:, 0] >= size, missed)


def test_misses_count_as_hits_in_the_reference_and_as_misses_here() -> None:
    embeddings, data = gallery("small")
    reference = retrieval_summary(
        {way: data[f"two_stage_k10_k5.ref_{way}_ranks"].numpy()[:, None].astype(np.int64) for way in ("i2t", "t2i")}
    )
    ours = retrieval_metrics(embeddings, score=SCORE, modes=["two_stage"], candidates={"i2t": 10, "t2i": 5})
    # The reference gives a match outside the shortlist rank 1: the smaller the shortlist, the better its numbers.
    assert reference["rsum"] == pytest.approx(564.3333, abs=1e-3)
    assert ours["two_stage"]["rsum"] == pytest.approx(437.3333, abs=1e-3)
    assert reference["t2i_r10"] == 100.0 and ours["two_stage"]["t2i_r10"] == pytest.approx(69.3333, abs=1e-3)


def test_misses_at_the_reference_shortlists_of_the_large_gallery() -> None:
    embeddings, data = gallery("large")
    reference = retrieval_summary(
        {way: data[f"two_stage_k50_k100.ref_{way}_ranks"].numpy()[:, None].astype(np.int64) for way in ("i2t", "t2i")}
    )
    right = retrieval_summary(
        {
            way: np.where(found < 0, 10**6, found)[:, None].astype(np.int64)
            for way in ("i2t", "t2i")
            if (found := data[f"two_stage_k50_k100.{way}_ranks_miss_is_minus1"].numpy()) is not None
        }
    )
    assert reference["rsum"] == pytest.approx(485.2, abs=0.1)
    assert right["rsum"] == pytest.approx(395.7, abs=0.1)


def test_five_folds_average_as_the_reference_does() -> None:
    embeddings, _ = gallery("small")
    found = retrieval_metrics(embeddings, score=SCORE, protocol="coco_1k", modes=["global", "local"])
    assert found["global"]["rsum"] == pytest.approx(501.33333, abs=1e-4)
    assert found["local"]["rsum"] == pytest.approx(533.66667, abs=1e-4)
    assert found["local"]["i2t_meanr"] == pytest.approx(1.98333, abs=0.1)


def test_shortlist_of_everything_equals_exhaustive_scoring() -> None:
    embeddings, _ = gallery("small")
    found = retrieval_metrics(embeddings, score=SCORE, modes=["exhaustive", "two_stage"], candidates=10**6)
    for name, value in found["exhaustive"].items():
        assert found["two_stage"][name] == pytest.approx(value)
    assert found["two_stage"]["stage1_recall"] == 100.0
