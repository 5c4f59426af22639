# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Queries of several parts, near-duplicates, and the question whether there is a match."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_tgdt.retrieval_tgdt import ComposedQuery, ScoreThreshold, TGDTRetriever
from modeling_tgdt.retriever.duplicates import find_duplicates
from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.retriever.threshold import auroc, fit_threshold
from tests.tiny_retrieval import CAPTIONS, random_picture, tiny_model, tiny_processor, tiny_retriever

PARTS = [CAPTIONS[0], random_picture(40), CAPTIONS[2], CAPTIONS[3]]
WEIGHTS = [1.0, 0.5, 2.0, -0.75]


@pytest.fixture(scope="module")
def retriever() -> TGDTRetriever:
    found = tiny_retriever()
    found.add_images([random_picture(number) for number in range(12)], metadata={"n": list(range(12))}, progress=False)
    return found


@pytest.fixture(scope="module")
def corrected() -> TGDTRetriever:
    """A gallery whose items carry a hubness."""
    generator = torch.Generator().manual_seed(0)
    banks = (torch.nn.functional.normalize(torch.randn(6, 32, generator=generator)) for _ in range(2))
    found = TGDTRetriever(tiny_model(), tiny_processor(), hubness=HubnessOptions(*banks, strength=2.0))
    found.add_images([random_picture(number) for number in range(12)], progress=False)
    return found


@pytest.fixture(scope="module")
def cut(corrected: TGDTRetriever) -> TGDTRetriever:
    """A gallery of cut global embeddings, whose items carry a hubness."""
    found = TGDTRetriever(corrected.model, corrected.processor, hubness=corrected.hubness)
    found.create_index(global_dim=12)
    found.add_images([random_picture(number) for number in range(12)], progress=False)
    return found


@pytest.mark.parametrize("mode", ["two_stage", "global", "local"])
@pytest.mark.parametrize("name", ["retriever", "corrected", "cut"])
def test_a_query_of_parts_scores_the_weighted_mean_of_its_parts(
    request: pytest.FixtureRequest, name: str, mode: Any
) -> None:
    retriever: TGDTRetriever = request.getfixturevalue(name)
    of_parts = [{hit.id: hit for hit in hits} for hits in retriever.search(PARTS, top_k=12, mode=mode)]
    hits = retriever.search(ComposedQuery(PARTS, WEIGHTS), top_k=12, mode=mode)
    shares = np.array(WEIGHTS) / 3.5
    assert len(hits) == 12
    for hit in hits:
        for field in ("score", "global_score", "local_score"):
            expected = sum(w * getattr(own[hit.id], field) for w, own in zip(shares, of_parts, strict=True))
            assert getattr(hit, field) == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    few = retriever.search(ComposedQuery(PARTS, WEIGHTS), top_k=3, candidates=3, mode=mode)
    if mode != "two_stage":
        assert [hit.id for hit in few] == [hit.id for hit in hits[:3]]


@pytest.mark.parametrize("name", ["corrected", "cut"])
def test_a_shortlist_of_parts_is_that_of_their_weighted_global_scores(
    request: pytest.FixtureRequest, name: str
) -> None:
    corrected: TGDTRetriever = request.getfixturevalue(name)
    short = corrected.search(ComposedQuery(PARTS, WEIGHTS), top_k=4, candidates=4)
    best = corrected.search(ComposedQuery(PARTS, WEIGHTS), top_k=4, mode="global")
    assert {hit.id for hit in short} == {hit.id for hit in best}


def test_one_part_twice_is_that_part_and_mixes_with_other_queries(retriever: TGDTRetriever) -> None:
    (twice, plain) = retriever.search([ComposedQuery([CAPTIONS[1]] * 2), CAPTIONS[1]], where={"n": {"gte": 4}})
    assert [hit.id for hit in twice] == [hit.id for hit in plain] and plain[0].metadata == twice[0].metadata
    assert [hit.score for hit in twice] == pytest.approx([hit.score for hit in plain], abs=1e-5)
    assert retriever.search(ComposedQuery([CAPTIONS[0]]), where={"n": 99}) == []


@pytest.mark.parametrize("weights", [[1], [1, -1, 1], [-1, 0], [1, float("nan")], [0, 0]])
def test_weights_that_say_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        ComposedQuery(["a", "b"], weights)


def test_parts_that_cancel_out_and_empty_words_are_refused(retriever: TGDTRetriever) -> None:
    for parts in (["sea", "sea"], ["sea", " "]):
        with pytest.raises(ValueError, match=r"cancel|empty"):
            retriever.search(ComposedQuery(parts, [1, -1]))


def test_near_duplicates_are_grouped(tmp_path: Path) -> None:
    retriever = tiny_retriever()
    pictures = [random_picture(number) for number in (0, 1, 0, 2, 0, 1)]
    retriever.add_images(pictures, ids=list("abcdef"), progress=False)
    assert find_duplicates(retriever.index, 0.9999) == [["a", "c", "e"], ["b", "f"]]
    hits = retriever.search("sea", top_k=2, group_similar=0.9999)
    plain = [hit.id for hit in retriever.search("sea")]
    groups = {name: group for group in ("ace", "bf", "d") for name in group}
    heads = list(dict.fromkeys(groups[name] for name in plain))
    assert [hit.id + "".join(hit.similar) for hit in hits] == heads[:2]
    with pytest.raises(ValueError, match="cosine"):
        retriever.search("sea", group_similar=1.5)


def test_groups_are_whole_however_many_duplicates_there_are() -> None:
    retriever = tiny_retriever()
    names = [f"{number:02d}" for number in range(40)]
    vectors = np.tile(np.eye(1, 32, dtype=np.float32), (40, 1))
    vectors[30:] = np.eye(32, dtype=np.float32)[1:11]
    retriever.create_index().add(names, vectors, vectors[:, None])
    assert find_duplicates(retriever.index) == [names[:30]]


def test_a_threshold_is_fitted_where_scores_alone_mislead() -> None:
    rng = np.random.default_rng(0)
    scores, matches = [], []
    for query in range(200):  # every query has a level of its own; a match stands out of its shortlist
        rest = rng.normal(rng.normal(0, 3), 0.3, 20)
        own = np.append(rest, rest.max() + 1.0) if query % 2 else rest
        order = np.argsort(-own)
        scores.append(own[order])
        matches.append(order == 20)
    found = fit_threshold(scores, matches, 21, 0.95)
    assert found.true_positive_rate >= 0.95 and found.auroc > 0.97 > found.raw_auroc + 0.2
    assert found.false_positive_rate < 0.2 < found.raw_false_positive_rate
    kept = [bool((found.probabilities(own) >= found.probability)[0]) for own in scores]
    assert np.mean(kept[1::2]) >= 0.95 and np.mean(kept[::2]) < 0.2
    assert all((np.diff(found.probabilities(own)) <= 0).all() for own in scores[:5])


def test_matches_behind_others_do_not_turn_a_threshold_around() -> None:
    """Half of the matches are not first: fitted on their own scores, weights said that a high best hit is none."""
    rng = np.random.default_rng(0)

    def shortlists(count: int, lift: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        scores = rng.normal(0, 0.3, (count, 20))
        scores[:, 0] += lift
        orders = np.argsort(-scores)
        return list(np.take_along_axis(scores, orders, 1)), list(orders == 0)

    found = fit_threshold(*shortlists(400, 0.6), 20, 0.95)
    with_match, without = (
        [own[0] for own in map(found.probabilities, shortlists(1000, lift)[0])] for lift in (0.6, 0.0)
    )
    raw = [[own[0] for own in shortlists(1000, lift)[0]] for lift in (0.6, 0.0)]
    assert auroc(np.array(with_match), np.array(without)) > max(0.6, auroc(*map(np.array, raw)) - 0.05)


def test_a_fitted_threshold_is_kept_and_leaves_hits_out(retriever: TGDTRetriever, tmp_path: Path) -> None:
    best = [retriever.search(caption, top_k=6, candidates=6)[0].id for caption in CAPTIONS]
    threshold = retriever.fit_threshold([*CAPTIONS, "a red sea"], [*best[:3], [best[3], "x"], None], candidates=6)
    threshold.save(tmp_path)
    assert ScoreThreshold.load(tmp_path) == threshold
    for caption, name in zip(CAPTIONS, best, strict=True):
        hits = retriever.search(caption, min_score=threshold)
        assert hits and hits[0].id == name and len(hits) < 12
    plain = retriever.search("sea", top_k=12)
    assert retriever.search("sea", top_k=12, min_score=plain[4].score) == plain[:5]
    with pytest.raises(ValueError, match="one entry per query"):
        retriever.fit_threshold(CAPTIONS, best[:2])
    with pytest.raises(ValueError, match="hold the match"):
        retriever.fit_threshold(["sea"], [None])
    (tmp_path / "threshold.json").write_text('{"weights": [1]}')
    with pytest.raises(ValueError, match="fit_threshold"):
        ScoreThreshold.load(tmp_path)


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    yes, no = rng.integers(0, 5, 30), rng.integers(0, 4, 20)
    pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    assert auroc(yes, no) == pytest.approx(np.mean(pairs))
