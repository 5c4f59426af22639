"""DistinctPhotoSampler: a permutation, clean batches, one order per (seed, epoch)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.samplers import DistinctPhotoSampler


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 50), st.integers(0, 3))
def test_equal_counts_give_clean_batches(photos: int, captions: int, size: int, epoch: int) -> None:
    size = min(size, photos)
    ids = np.repeat(np.arange(photos), captions)
    sampler = DistinctPhotoSampler(ids.tolist(), size, seed=7)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(ids)))
    for batch in batches(order, size):
        assert len(set(ids[batch])) == len(batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_any_counts_give_a_permutation(counts: list[int], size: int) -> None:
    ids = np.repeat(np.arange(len(counts)), counts)
    sampler = DistinctPhotoSampler(ids.tolist(), size)
    order = list(sampler)
    assert len(sampler) == len(ids) and sorted(order) == list(range(len(ids)))


def test_unequal_counts_are_clean_when_rounds_are_large() -> None:
    counts = np.random.default_rng(0).integers(3, 8, size=500)
    ids = np.repeat(np.arange(500), counts)
    for batch in batches(list(DistinctPhotoSampler(ids.tolist(), 64)), 64)[:-1]:
        assert len(set(ids[batch])) == len(batch)


def test_order_depends_on_seed_and_epoch_only() -> None:
    ids = [f"photo-{number // 5}" for number in range(100)]
    first, same, other = (DistinctPhotoSampler(ids, 8, seed=seed) for seed in (1, 1, 2))
    assert list(first) == list(same) == list(first)
    assert list(first) != list(other)
    same.set_epoch(1)
    assert list(first) != list(same)


def test_epoch_reaches_the_dataset() -> None:
    class Recorder:
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    dataset = Recorder()
    DistinctPhotoSampler(["a"], 1, dataset=dataset).set_epoch(4)
    assert dataset.epoch == 4


@pytest.mark.parametrize(("ids", "size", "message"), [([], 1, "image_ids empty"), (["a"], 0, "1 or more")])
def test_wrong_arguments(ids: list[str], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistinctPhotoSampler(ids, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_photos_of_one_group_share_a_batch(groups: int, members: int, per_batch: int, epoch: int) -> None:
    group = np.arange(groups * members) % groups
    sampler = DistinctPhotoSampler(list(range(len(group))), per_batch * members, seed=3, groups=group.tolist())
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(group)))
    for batch in batches(order, per_batch * members):
        assert set(Counter(group[batch].tolist()).values()) == {members}


def test_photos_without_a_group_bring_nobody() -> None:
    ids = np.arange(64)
    plain, grouped = (list(DistinctPhotoSampler(ids.tolist(), 8, groups=groups)) for groups in (None, [None] * 64))
    assert plain == grouped
