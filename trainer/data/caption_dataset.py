# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""One training example per caption, with pictures decoded where the example is asked for (a data-loader worker)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image

from ..images import OnError, UnreadableImageError, check_policy, placeholder_image, read_image
from .negatives import read_negatives, split_negative_images
from .skip_report import SkipReport

CaptionsPerImage = Literal["all", "one"]
Example = dict[str, Any]


class CaptionDataset(torch.utils.data.Dataset):
    """Map-style view of a caption data set: one (picture or regions, caption, image_id) per caption.

    Args:
        dataset: As [`load_captions`] returns it.
        captions_per_image: `"all"`: one example per caption. `"one"`: one example per photo, with a caption drawn
            anew in every epoch.
        on_error: What an unreadable picture does: `"raise"`; `"skip"`: the next readable photo takes its place, so
            that batches keep their size on every process; `"placeholder"`: a grey square takes its place.
        report: Where unreadable pictures are listed; a new one by default, see the attribute `report`.
        seed: Seed of the captions drawn.
        transform: Applied to each RGB picture, for augmentation.

    Raises:
        ValueError: When a choice is unknown or there is no caption.

    Example:
        >>> import datasets
        >>> rows = {"image": ["a.jpg"], "captions": [["a cat", "a pet"]], "image_id": ["a"]}
        >>> len(CaptionDataset(datasets.Dataset.from_dict(rows)))
        2
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        captions_per_image: CaptionsPerImage = "all",
        on_error: OnError = "raise",
        report: SkipReport | None = None,
        seed: int = 0,
        transform: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        check_policy(on_error)
        if captions_per_image not in ("all", "one"):
            raise ValueError(f"captions_per_image must be 'all' or 'one', found {captions_per_image!r}.")
        self.dataset, self._negative_images = split_negative_images(undecoded(dataset))
        self.captions_per_image = captions_per_image
        self.on_error = on_error
        self.report = SkipReport() if report is None else report
        self.transform = transform
        self.seed = seed
        # Shared with persistent workers, which never see a new copy of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.counts = caption_counts(dataset)
        rows = np.arange(len(self.counts))
        self._rows = np.repeat(rows, self.counts) if captions_per_image == "all" else rows[self.counts > 0]
        if not len(self._rows):
            raise ValueError("The data set has no captions. Check the split and the caption column.")
        first = np.cumsum(self.counts) - self.counts
        self._positions = np.arange(len(self._rows)) - first[self._rows] if captions_per_image == "all" else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def image_ids(self) -> list[str]:
        """Photo id of every example."""
        return self._by_example("image_id")

    @property
    def group_ids(self) -> list[str] | None:
        """Group of look-alikes that the photo of every example belongs to; `None` for data without `group_id`."""
        return self._by_example("group_id") if "group_id" in self.dataset.column_names else None

    def _by_example(self, column: str) -> list[str]:
        values = self.dataset.with_format(None).select_columns([column])[column][:]
        return [values[row] for row in self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose captions are drawn; reaches running workers too.

        Args:
            epoch: Number of the epoch.
        """
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Example:
        """Return one example.

        Args:
            index: Number of the example.

        Returns:
            `caption`, `image_id`, and `image` (RGB PIL) or `region_features` (R, F) and `region_boxes` (R, 4); the
            photo's hard negatives where the data set has columns of them.

        Raises:
            IndexError: When there is no such example.
            UnreadableImageError: When the picture cannot be read and the policy is `"raise"`, or when no picture can.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"Example {index} of {len(self)} does not exist.")
        for step in range(len(self)):
            example = self._read((index + step) % len(self))
            if example is not None:
                return example
        raise UnreadableImageError(f"No picture of the data set can be read: {self.report.summary()}.")

    def _read(self, index: int) -> Example | None:
        row = self.dataset[int(self._rows[index])]
        if self._negative_images is not None:
            row["negative_images"] = self._negative_images[int(self._rows[index])]["negative_images"].to_pylist()[0]
        captions = row.pop("captions")
        row["caption"] = captions[self._position(index, len(captions))]
        return with_picture(row, self.on_error, self.report, self.transform)

    def _position(self, index: int, count: int) -> int:
        if self._positions is not None:
            return int(self._positions[index])
        return int(np.random.default_rng([self.seed, int(self._epoch), index]).integers(count))


class IterableCaptionDataset(torch.utils.data.IterableDataset):
    """Streaming view of a caption data set, shared out over data-loader workers by `datasets`.

    Args:
        dataset: As [`load_captions`] returns it with `streaming=True`.
        captions_per_image: As in [`CaptionDataset`]; `"one"` is the default, since `"all"` needs `buffer_size` much
            larger than the batch to keep captions of one photo apart.
        on_error: As in [`CaptionDataset`]; `"skip"` leaves the example out.
        report: As in [`CaptionDataset`].
        seed: Seed of the captions drawn and of the buffer.
        buffer_size: Examples among which the next one is drawn; 0 keeps the order of the stream.
        transform: As in [`CaptionDataset`].
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        *,
        captions_per_image: CaptionsPerImage = "one",
        on_error: OnError = "raise",
        report: SkipReport | None = None,
        seed: int = 0,
        buffer_size: int = 0,
        transform: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        check_policy(on_error)
        self.dataset = undecoded(dataset)
        self.captions_per_image = captions_per_image
        self.on_error = on_error
        self.report = SkipReport() if report is None else report
        self.seed, self.buffer_size, self.transform = seed, buffer_size, transform
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, which seeds captions and order.

        Args:
            epoch: Number of the epoch.
        """
        self._epoch.fill_(epoch)
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Example]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, int(self._epoch), 0 if worker is None else worker.id])
        for row in _shuffled(self._examples(rng), self.buffer_size, rng):
            example = with_picture(row, self.on_error, self.report, self.transform)
            if example is not None:
                yield example

    def _examples(self, rng: np.random.Generator) -> Iterator[Example]:
        for row in self.dataset:
            captions = row.pop("captions")
            if self.captions_per_image == "one" and captions:
                captions = [captions[rng.integers(len(captions))]]
            for caption in captions:
                yield {**row, "caption": caption}


def undecoded(dataset: Any) -> Any:
    """Return the data set with pictures as stored bytes or paths, so that decoding happens under our policy.

    Args:
        dataset: `datasets.Dataset` or `IterableDataset`.
    """
    features = dataset.features or {}
    if isinstance(features.get("image"), datasets.Image):
        dataset = dataset.cast_column("image", datasets.Image(decode=False))
    if "negative_images" in features and isinstance(dataset, datasets.IterableDataset):
        dataset = dataset.cast_column("negative_images", datasets.List(datasets.Image(decode=False)))
    return dataset


def caption_counts(dataset: datasets.Dataset) -> NDArray[np.int64]:
    """Return how many captions each row has, without decoding anything, (rows,).

    Args:
        dataset: Data set with a list column `captions`.
    """
    table = dataset.with_format("arrow").select_columns(["captions"])[:]
    return np.asarray(pc.fill_null(pc.list_value_length(table.column("captions")), 0)).astype(np.int64)


def with_picture(
    row: Example,
    on_error: OnError,
    report: SkipReport,
    transform: Callable[[Image.Image], Image.Image] | None = None,
) -> Example | None:
    """Decode the picture of a row, and its negative images, under a policy; rows of regions pass unchanged.

    Args:
        row: Row with an undecoded `image`, or with regions.
        on_error: Policy for an unreadable picture.
        report: Where it is listed.
        transform: Applied to the RGB picture.

    Returns:
        The row with an RGB picture, or None when it is to be left out.

    Raises:
        UnreadableImageError: Under `"raise"`.
    """
    row = read_negatives(row, on_error, report)
    if "image" not in row:
        return row
    try:
        image = read_image(row["image"])
    except UnreadableImageError as error:
        if on_error == "raise":
            raise UnreadableImageError(
                f"Photo {row['image_id']!r} cannot be read: {error}. Repair or remove it, or pass on_error='skip' or "
                "'placeholder'."
            ) from error
        report.add(row["image_id"], str(error))
        if on_error == "skip":
            return None
        image = placeholder_image()
    if transform is None:
        return {**row, "image": image}
    if row.get("negative_images"):
        row["negative_images"] = [transform(other) for other in row["negative_images"]]
    return {**row, "image": transform(image)}


def _shuffled(examples: Iterator[Example], size: int, rng: np.random.Generator) -> Iterator[Example]:
    buffer: list[Example] = []
    for example in examples:
        if len(buffer) < size:
            buffer.append(example)
            continue
        if buffer:
            slot = int(rng.integers(len(buffer)))
            buffer[slot], example = example, buffer[slot]
        yield example
    rng.shuffle(buffer)
    yield from buffer
