# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Check every picture of a data set once, before training, and leave out or replace the unreadable ones."""

from __future__ import annotations

import logging
from typing import Any

import datasets

from ..images import OnError, encode_png, placeholder_image, why_unreadable
from .caption_dataset import undecoded
from .skip_report import SkipReport

logger = logging.getLogger(__name__)

_VERDICTS = datasets.Features({"image_id": datasets.Value("string"), "why": datasets.Value("string")})


def drop_unreadable(
    dataset: datasets.Dataset,
    on_error: OnError,
    report: SkipReport,
    *,
    num_proc: int | None = None,
    max_pixels: int | None = None,
) -> datasets.Dataset:
    """Apply the policy to a map-style data set; under `"raise"` nothing is opened here.

    Args:
        dataset: Canonical data set with an `image` column (others pass unchanged).
        on_error: `"skip"` drops the rows, `"placeholder"` puts a grey square in.
        report: Receives (image_id, why) of each.
        num_proc: Processes that check pictures.
        max_pixels: See [`why_unreadable`].

    Returns:
        Data set whose pictures all can be read.
    """
    if on_error == "raise" or "image" not in dataset.column_names:
        return dataset
    rows = undecoded(dataset).select_columns(["image", "image_id"])
    options: dict[str, Any] = {"features": _VERDICTS, "num_proc": num_proc, "desc": "Checking pictures"}
    verdicts = rows.map(_verdict, remove_columns=["image"], fn_kwargs={"max_pixels": max_pixels}, **options)
    reasons = list(verdicts["why"])
    bad = {index for index, why in enumerate(reasons) if why is not None}
    if not bad:
        return dataset
    for index in sorted(bad):
        report.add(verdicts[index]["image_id"], reasons[index])
    if len(bad) == len(dataset):
        raise ValueError(f"None of the {len(bad)} pictures can be read: {report.summary()}. Check the picture column.")
    logger.warning("Unreadable pictures (%s): %s", on_error, report.summary())
    if on_error == "skip":
        return dataset.select([index for index in range(len(dataset)) if index not in bad])
    replaced = undecoded(dataset).map(_replace, fn_kwargs={"bad": bad}, with_indices=True, desc="Replacing pictures")
    return replaced.cast_column("image", datasets.Image())


def drop_unreadable_stream(
    dataset: datasets.IterableDataset, on_error: OnError, report: SkipReport, max_pixels: int | None = None
) -> datasets.IterableDataset:
    """Apply the policy to a stream of undecoded pictures, as they come by.

    Args:
        dataset: Stream with undecoded `image` and `image_id`.
        on_error: As in [`drop_unreadable`].
        report: As in [`drop_unreadable`].
        max_pixels: As in [`drop_unreadable`].
    """
    if on_error == "skip":
        return dataset.filter(_StreamCheck(report, max_pixels))
    if on_error == "placeholder":
        return dataset.map(_StreamReplace(report, max_pixels))
    return dataset


class _StreamCheck:
    def __init__(self, report: SkipReport, max_pixels: int | None = None) -> None:
        self.report = report
        self.max_pixels = max_pixels

    def __call__(self, row: dict[str, Any]) -> bool:
        why = why_unreadable(row["image"], max_pixels=self.max_pixels)
        if why is not None:
            self.report.add(row["image_id"], why)
        return why is None


class _StreamReplace(_StreamCheck):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return row if super().__call__(row) else {**row, "image": _placeholder()}


def _verdict(row: dict[str, Any], max_pixels: int | None) -> dict[str, str | None]:
    return {"image_id": row["image_id"], "why": why_unreadable(row["image"], max_pixels=max_pixels)}


def _replace(row: dict[str, Any], index: int, bad: set[int]) -> dict[str, Any]:
    return {"image": _placeholder()} if index in bad else {}


def _placeholder() -> dict[str, Any]:
    return {"bytes": encode_png(placeholder_image()), "path": None}
