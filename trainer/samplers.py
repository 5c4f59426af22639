# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A training order in which no batch holds two captions of one photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence


class DistinctPhotoSampler(torch.utils.data.Sampler[int]):
    """Shuffle captions so that every `batch_size` consecutive ones belong to different photos.

    It is a plain sampler: a DataLoader with that batch size cuts its order into clean batches. Under Accelerate, which
    hands consecutive batches to the processes, pass the size of the joined batch (per-device size x processes), and
    the negatives gathered across processes are clean too. The order depends on seed and epoch only, so a resumed run
    that skips the batches it has seen goes on exactly where it stopped.

    The epoch is dealt in rounds, each with at most one caption of a photo; a photo with few captions sits out random
    rounds. Batches are clean whenever a round has at least `batch_size` photos; where the data cannot give that (fewer
    photos than the batch holds, or one photo with most captions) the loss masks what is left, by `image_ids`.

    Args:
        image_ids: Photo of every example, such as `CaptionDataset.image_ids`.
        batch_size: Examples of one joined batch.
        seed: Seed of the order.
        dataset: Its `set_epoch` is called along with ours (Accelerate calls only one of the two when distributed).
        groups: Group of every example: photos of one group are look-alikes, and a photo brings those that the round
            has left into its batch, before its `neighbours`.

    Attributes:
        neighbours: (P, K) hard negatives of each photo, hardest first, padded with -1; photos count in the order of
            their sorted ids. A photo then brings those of its neighbours into its batch that the round has left.
            `None` deals photos at random.

    Raises:
        ValueError: When there is no example or the batch size is below 1.

    Example:
        >>> sorted(DistinctPhotoSampler(["a", "a", "b", "b"], batch_size=2))
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        image_ids: Sequence[str | int],
        batch_size: int,
        *,
        seed: int = 0,
        dataset: Any = None,
        groups: Sequence[str | None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, found {batch_size}.")
        if not len(image_ids):
            raise ValueError("Expected at least one example to sample, found image_ids empty.")
        _, photos = np.unique(np.asarray(image_ids), return_inverse=True)
        self.photos: NDArray[np.int64] = photos.astype(np.int64)
        self.batch_size, self.seed, self.dataset = batch_size, seed, dataset
        self.epoch = 0
        self.look_alikes = None if groups is None else _look_alikes(self.photos, groups)
        self.neighbours: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.photos)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order: list[int] = []
        for members in _rounds(self.photos, rng):
            order.extend(self._continue(order, members))
        return iter(order)

    def _continue(self, order: list[int], members: NDArray[np.int64]) -> list[int]:
        """Order a round so that it completes the open batch without repeating one of its photos."""
        open_batch = order[len(order) - len(order) % self.batch_size :]
        if not open_batch:
            return self._grouped(members)
        clash = np.isin(self.photos[members], self.photos[open_batch])
        head = members[~clash][: self.batch_size - len(open_batch)]
        return [*head.tolist(), *self._grouped(members[np.isin(members, head, invert=True)])]

    def _grouped(self, members: NDArray[np.int64]) -> list[int]:
        """Let each photo bring its look-alikes and hard negatives along, as many as its batch has room for."""
        tables = [table for table in (self.look_alikes, self.neighbours) if table is not None]
        if not tables:
            return list(members.tolist())
        brought = np.concatenate(tables, axis=1)
        left = dict(zip(self.photos[members].tolist(), members.tolist(), strict=True))
        order: list[int] = []
        for photo in list(left):
            if photo in left:
                room = self.batch_size - len(order) % self.batch_size
                others = (other for other in brought[photo].tolist() if other in left)
                order += [left.pop(member) for member in list(dict.fromkeys([photo, *others]))[:room]]
        return order


def _look_alikes(photos: NDArray[np.int64], groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the other photos of each photo's group, (P, K), padded with -1."""
    group_of = dict(sorted(zip(photos.tolist(), groups, strict=True)))
    members: dict[str | None, list[int]] = {}
    for photo, group in group_of.items():
        members.setdefault(group, []).append(photo)
    members[None] = []  # photos without a group are nobody's look-alikes
    rows = [torch.tensor([other for other in members[group] if other != photo]) for photo, group in group_of.items()]
    padded: NDArray[np.int64] = pad_sequence(rows, batch_first=True, padding_value=-1).numpy().astype(np.int64)
    return padded


def _rounds(photos: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Deal examples into rounds with at most one per photo, each round in random order."""
    shuffled = rng.permutation(len(photos))
    by_photo = shuffled[np.argsort(photos[shuffled], kind="stable")]
    counts = np.bincount(photos)
    rounds = int(counts.max())
    turn = np.concatenate([rng.permutation(rounds)[:count] for count in counts])
    order = rng.permutation(len(photos))
    by_photo, turn = by_photo[order], turn[order]
    by_turn = by_photo[np.argsort(turn, kind="stable")]
    return np.split(by_turn, np.cumsum(np.bincount(turn, minlength=rounds))[:-1])
