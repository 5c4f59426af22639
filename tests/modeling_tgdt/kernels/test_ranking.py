# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The best of many scores, with many ties, against a sort in Python."""

from collections.abc import Callable

import numpy as np
import pytest

from modeling_tgdt.kernels import ranking
from modeling_tgdt.kernels.maxsim import kernel

SIZES = (0, 1, 700, 0, 40, 0)
OFFSETS = ranking.offsets_of(np.array(SIZES))


needs_kernel = pytest.mark.skipif(kernel is None, reason="the kernel was not built: there was no C++ compiler")


@pytest.fixture(params=["numpy", pytest.param("kernel", marks=needs_kernel)])
def scores(request: pytest.FixtureRequest, without_kernel: Callable[[], None]) -> np.ndarray:
    """Scores of few values, in the order of nothing."""
    if request.param == "numpy":
        without_kernel()
    return np.random.default_rng(0).integers(0, 6, OFFSETS[-1]).astype(np.float32)


def best(scores: np.ndarray, first: int, last: int, k: int) -> list[int]:
    places = sorted(range(first, last), key=lambda place: (-scores[place], place))
    return [place for rank, place in enumerate(places) if rank < k or scores[place] == scores[places[k - 1]]]


@pytest.mark.parametrize("k", [1, 3, 200, 1000])
def test_the_best_and_all_ties_of_the_last_come_in_order(scores: np.ndarray, k: int) -> None:
    places, ends = ranking.best_places(scores, OFFSETS, k)
    want = [best(scores, first, last, k) for first, last in zip(OFFSETS[:-1], OFFSETS[1:], strict=True)]
    assert places.tolist() == sum(want, []) and np.diff(ends).tolist() == [len(own) for own in want]


@pytest.mark.parametrize("few", [0, 1 << 12])
@pytest.mark.parametrize("k", [1, 3, 200, 1000])
def test_ties_come_in_the_order_of_ids(scores: np.ndarray, k: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_FEW_TIES", few)  # beyond it ties are told apart by numbers
    order = np.random.default_rng(1).permutation(len(scores))
    places, ends = ranking.best_by_id(
        scores, OFFSETS, k, lambda own: [f"{order[place]:04}" for place in own], lambda own: order[own]
    )
    spans = zip(OFFSETS[:-1], OFFSETS[1:], strict=True)
    want = [sorted(range(*span), key=lambda place: (-scores[place], order[place]))[:k] for span in spans]
    assert places.tolist() == sum(want, []) and np.diff(ends).tolist() == [len(own) for own in want]
