# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Hard negatives that a data set names: captions that do not suit a photo, images that its captions do not suit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import datasets

from ..images import OnError, UnreadableImageError, read_image
from .grouping import group_by_photo, text_list
from .skip_report import SkipReport

TEXTS = datasets.List(datasets.Value("string"))
NEGATIVE_FEATURES: dict[str, Any] = {
    "negative_captions": TEXTS,
    "negative_images": datasets.List(datasets.Image()),
    "negative_image_ids": TEXTS,
}


def holds_names(feature: Any) -> bool:
    """Tell whether a column holds file names, or lists of them.

    Args:
        feature: Feature of the column.
    """
    inner = feature.feature if isinstance(feature, datasets.List) else feature
    return isinstance(inner, datasets.Value) and inner.dtype in ("string", "large_string")


def with_negatives(
    photos: datasets.Dataset,
    table: datasets.Dataset,
    column_of: Mapping[str, str],
    ids: list[str],
    rows: list[int],
    path_of: Callable[[str], str],
) -> datasets.Dataset:
    """Add the columns of hard negatives that a table has to its photos.

    Negative captions of caption-wise rows are joined as the captions are; of images the photo's first row counts.

    Args:
        photos: One row per photo; `negative_images` are there already where the table holds pictures, not names.
        table: The table that the photos come from.
        column_of: Canonical name to column of the table.
        ids: Photo id of every row of the table.
        rows: First row of every photo.
        path_of: Path of a file name.
    """

    def column(name: str) -> list[list[str]]:
        plain = table.with_format(None).select_columns([column_of[name]])
        return [text_list(value) for value in plain[column_of[name]][:]]

    def add(name: str, values: list[Any]) -> datasets.Dataset:
        return photos.add_column(name, values, feature=NEGATIVE_FEATURES[name])

    if "negative_captions" in column_of:
        photos = add("negative_captions", group_by_photo(ids, column("negative_captions"))[1])
    if "negative_images" in column_of and "negative_images" not in photos.column_names:
        names = column("negative_images")
        pictures = [[{"path": path_of(name), "bytes": None} for name in names[row]] for row in rows]
        photos = add("negative_images", pictures)
        if "negative_image_ids" not in column_of:
            id_of = _ids_of_names(table, column_of, ids)
            return add("negative_image_ids", [[id_of.get(name, name) for name in names[row]] for row in rows])
    if "negative_image_ids" in column_of:
        values = column("negative_image_ids")
        photos = add("negative_image_ids", [values[row] for row in rows])
    return photos


def _ids_of_names(table: datasets.Dataset, column_of: Mapping[str, str], ids: list[str]) -> dict[str, str]:
    """Return the photo id of every file name that is a photo of the table."""
    if "image" not in column_of or not holds_names(table.features[column_of["image"]]):
        return {}
    names = table.with_format(None).select_columns([column_of["image"]])[column_of["image"]][:]
    return dict(zip(names, ids, strict=True))


def split_negative_images(dataset: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Return a data set without its column of negative images, and that column as Arrow rows, which decode nothing.

    `datasets` can leave a single picture undecoded, but would rewrite the whole table for a list of them.

    Args:
        dataset: Canonical data set.
    """
    if "negative_images" not in dataset.column_names:
        return dataset, None
    images = dataset.with_format("arrow").select_columns(["negative_images"])
    return dataset.remove_columns(["negative_images"]), images


def read_negatives(row: dict[str, Any], on_error: OnError, report: SkipReport) -> dict[str, Any]:
    """Decode the negative images of a row; one that cannot be read is left out unless the policy is `"raise"`.

    Args:
        row: Row, maybe with undecoded `negative_images` and their `negative_image_ids`.
        on_error: Policy for unreadable pictures; a grey square would not be a hard negative.
        report: Where they are listed.

    Raises:
        ValueError: When there is not one id per image.
        UnreadableImageError: Under `"raise"`.
    """
    sources = row.get("negative_images")
    if not sources:
        return row
    ids = row.get("negative_image_ids") or [None] * len(sources)
    if len(ids) != len(sources):
        raise ValueError(
            f"Photo {row['image_id']!r} has {len(sources)} negative_images and {len(ids)} negative_image_ids: give "
            "one id per image, or leave the ids out."
        )
    kept = []
    for number, (source, image_id) in enumerate(zip(sources, ids, strict=True)):
        try:
            kept.append((read_image(source), image_id))
        except UnreadableImageError as error:
            name = f"negative image {number} of photo {row['image_id']}"
            if on_error == "raise":
                raise UnreadableImageError(
                    f"{name.capitalize()} cannot be read: {error}. Repair or remove it, or pass on_error='skip'."
                ) from error
            report.add(name, str(error))
    return {**row, "negative_images": [image for image, _ in kept], "negative_image_ids": [name for _, name in kept]}
