"""Chunked ranking against a slow full-matrix twin."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_cards.metric.image_text_recall.image_text_recall import relevant_positions, retrieval_summary
from modeling_tgdt.similarity_tgdt import ScoreConfig
from trainer.evaluation import retrieval_metrics
from trainer.scoring.embeddings import RaggedTokens, RetrievalEmbeddings
from trainer.scoring.positions import exhaustive_positions, two_stage_positions


def slow_ranking(scores: list[float], relevant: set[int]) -> list[int]:
    """Item numbers, best first; among equals the relevant ones last."""
    return sorted(range(len(scores)), key=lambda item: (-scores[item], item in relevant))


def slow_metrics(rankings: list[list[int]], relevant: list[set[int]], limit: int | None = None) -> dict[str, float]:
    ranks, reciprocal, precision, gain = [], [], [], []
    for ranking, wanted in zip(rankings, relevant, strict=True):
        places = [place for place, item in enumerate(ranking) if item in wanted]
        found = [place for place in places if limit is None or place < limit]
        ranks.append((places[0], bool(found)))
        reciprocal.append(1 / (found[0] + 1) if found else 0.0)
        top = len(wanted)
        precision.append(sum(sum(q <= p for q in found) / (p + 1) for p in found if p < top) / top)
        ideal = sum(1 / math.log2(place + 2) for place in range(top))
        gain.append(sum(1 / math.log2(place + 2) for place in found) / ideal)
    result = {f"r{k}": 100 * np.mean([hit and rank < k for rank, hit in ranks]) for k in (1, 5, 10)}
    result["medr"] = math.floor(np.median([rank for rank, _ in ranks])) + 1
    result["meanr"] = np.mean([rank for rank, _ in ranks]) + 1
    return {**result, "mrr": np.mean(reciprocal), "map@R": np.mean(precision), "ndcg": np.mean(gain)}


def random_gallery(seed: int, images: int, max_captions: int, levels: int) -> RetrievalEmbeddings:
    """A gallery whose scores are small integers, so that ties abound and sums are exact."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, max_captions + 1, images)
    owners = np.repeat(np.arange(images), counts)
    texts, dim = len(owners), 6

    def vectors(rows: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(-levels, levels + 1, (rows, dim))).float()

    def tokens(items: int, low: int) -> RaggedTokens:
        lengths = torch.from_numpy(rng.integers(low, 5, items))
        return RaggedTokens.from_lengths(vectors(int(lengths.sum())), lengths)

    return RetrievalEmbeddings(
        vectors(images), vectors(texts), torch.from_numpy(owners), tokens(images, 1), tokens(texts, 0)
    )


def slow_scores(gallery: RetrievalEmbeddings, score: ScoreConfig) -> np.ndarray:
    table = np.zeros((len(gallery.image_embeds), len(gallery.text_embeds)))
    assert gallery.image_tokens is not None and gallery.text_tokens is not None
    for i in range(table.shape[0]):
        regions = gallery.image_tokens.flat[gallery.image_tokens.offsets[i] : gallery.image_tokens.offsets[i + 1]]
        for t in range(table.shape[1]):
            words = gallery.text_tokens.flat[gallery.text_tokens.offsets[t] : gallery.text_tokens.offsets[t + 1]]
            best = [max(float(region @ word) for region in regions) for word in words]
            local = sum(best) * score.scale
            table[i, t] = score.global_weight * float(gallery.image_embeds[i] @ gallery.text_embeds[t])
            table[i, t] += score.local_weight * local
    return table


def sides(gallery: RetrievalEmbeddings, table: np.ndarray) -> dict[str, tuple[np.ndarray, list[set[int]]]]:
    owners = gallery.text_to_image.tolist()
    captions = [{t for t, owner in enumerate(owners) if owner == i} for i in range(table.shape[0])]
    return {"i2t": (table, captions), "t2i": (table.T, [{owner} for owner in owners])}


SUM = ScoreConfig(1.0, 2.0, "sum", 3.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_exhaustive_modes_equal_the_slow_twin(seed: int, images: int, captions: int, levels: int) -> None:
    gallery = random_gallery(seed, images, captions, levels)
    for score in (SUM, SUM.only("global"), SUM.only("local")):
        found = retrieval_summary(exhaustive_positions(gallery, score))
        for way, (table, relevant) in sides(gallery, slow_scores(gallery, score)).items():
            rankings = [slow_ranking(list(row), wanted) for row, wanted in zip(table, relevant, strict=True)]
            for name, value in slow_metrics(rankings, relevant).items():
                assert found[f"{way}_{name}"] == pytest.approx(value), (way, name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.integers(1, 12))
def test_two_stage_equals_the_slow_twin(seed: int, images: int, captions: int, size: int) -> None:
    # Many levels: rivals tie rarely, so the twin's choice among tied rivals at the edge of the shortlist is ours;
    # yet every score stays an integer below 2 ** 24, exact in float32.
    gallery = random_gallery(seed, images, captions, 300)
    first = sides(gallery, slow_scores(gallery, SUM.only("global")))
    mixed = sides(gallery, slow_scores(gallery, SUM))
    for way in ("i2t", "t2i"):
        relevant = first[way][1]
        rankings = []
        for row, second, wanted in zip(first[way][0], mixed[way][0], relevant, strict=True):
            order = slow_ranking(list(row), wanted)
            tied_last = {place for place, item in enumerate(order[:size]) if item in wanted}
            top = slow_ranking([second[item] for item in order[:size]], tied_last)
            rankings.append([order[place] for place in top] + order[size:])
        final, stage_one = two_stage_positions(gallery, way, size, SUM)  # type: ignore[arg-type]
        found = retrieval_summary({way: final}, {way: size})
        for name, value in slow_metrics(rankings, relevant, size).items():
            assert found[f"{way}_{name}"] == pytest.approx(value), (way, name)
        assert ((stage_one[:, 0] < size) == (final[:, 0] < size)).all()


def test_ragged_items_whose_mean_length_is_one_items_length() -> None:
    store = RaggedTokens.from_lengths(torch.arange(6.0)[:, None], torch.tensor([2, 1, 3]))
    tokens, mask = store.padded(torch.tensor([0]))
    assert tokens[mask].flatten().tolist() == [0.0, 1.0]
    tokens, mask = store.padded(torch.tensor([2, 1]))
    assert tokens[mask].flatten().tolist() == [3.0, 4.0, 5.0, 2.0]
    assert store.select(torch.tensor([2, 0])).flat.flatten().tolist() == [3.0, 4.0, 5.0, 0.0, 1.0]


def test_ties_count_against_the_system() -> None:
    assert relevant_positions(np.zeros((1, 4)), np.array([[2]])).tolist() == [[3]]
    assert relevant_positions(np.array([[0.0, 1.0, 1.0]]), np.array([[2, 0]])).tolist() == [[1, 2]]


def test_a_collapsed_model_scores_worst_in_two_stages() -> None:
    gallery = RetrievalEmbeddings(
        torch.ones(6, 2),
        torch.ones(6, 2),
        torch.arange(6),
        RaggedTokens.from_lengths(torch.ones(6, 2), torch.ones(6, dtype=torch.int64)),
        RaggedTokens.from_lengths(torch.ones(6, 2), torch.ones(6, dtype=torch.int64)),
    )
    found = retrieval_metrics(gallery, candidates=3)
    assert found["two_stage"]["rsum"] == 0.0 and found["two_stage"]["stage1_recall"] == 0.0
    assert found["global"]["t2i_r1"] == found["local"]["t2i_r1"] == 0.0
    assert found["two_stage"]["t2i_meanr"] == 6.0


def test_perfect_and_single_galleries() -> None:
    eye = torch.eye(4)
    one = torch.ones(4, dtype=torch.int64)
    tokens = RaggedTokens.from_lengths(eye, one)
    perfect = retrieval_metrics(RetrievalEmbeddings(eye, eye, torch.arange(4), tokens, tokens), candidates=2)
    for metrics in perfect.values():
        assert metrics["rsum"] == 600.0 and metrics["ndcg"] == metrics["map@R"] == metrics["mrr"] == 1.0
    single = RaggedTokens.from_lengths(eye[:1], one[:1])
    lone = retrieval_metrics(RetrievalEmbeddings(eye[:1], eye[:1], torch.zeros(1, dtype=torch.int64), single, single))
    assert all(metrics["rsum"] == 600.0 for metrics in lone.values())


def test_photos_without_captions_only_fill_the_gallery() -> None:
    gallery = RetrievalEmbeddings(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1]))
    found = retrieval_metrics(gallery, modes=["global"])
    assert found["global"]["i2t_r1"] == found["global"]["t2i_r1"] == 100.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modes": ["two-stage"]}, "Did you mean 'two_stage'"),
        ({"modes": "global"}, "must be a list"),
        ({"protocol": "coco1k"}, "Did you mean 'coco_1k'"),
        ({"candidates": 0}, "number from 1"),
        ({"candidates": {"t2t": 5}}, "number from 1"),
        ({"modes": ["local"]}, "need token embeddings"),
        ({"modes": ["global"], "protocol": "coco_1k"}, "5 folds"),
    ],
)
def test_wrong_choices_name_the_right_one(arguments: dict[str, Any], message: str) -> None:
    gallery = RetrievalEmbeddings(torch.eye(2), torch.eye(2), torch.arange(2))
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(gallery, **arguments)


def test_nan_scores_are_refused() -> None:
    broken = torch.tensor([[torch.nan, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="NaN"):
        retrieval_metrics(RetrievalEmbeddings(broken, torch.eye(2), torch.arange(2)), modes=["global"])


def test_owner_outside_the_photos_is_refused() -> None:
    with pytest.raises(ValueError, match="one of 2 photos"):
        RetrievalEmbeddings(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
