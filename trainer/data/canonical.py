# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Bring tables and photo records to the canonical columns: image or regions, captions, image_id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from modeling_tgdt.encoding_tgdt import check_text
from modeling_tgdt.image_loading_tgdt import known_formats, upright_size
from modeling_tgdt.retriever.picture_sources import is_missing, row_id

from ..images import OnError
from .annotations import PhotoRecord
from .columns import find_columns, numbered_columns
from .grouping import group_by_photo, text_list
from .identity import photo_ids, picture_names
from .names import PictureFinder
from .negatives import NEGATIVE_FEATURES, TEXTS, holds_names, with_negatives
from .picture_lists import holds_lists, only_picture, unpack_pictures
from .region_features import RegionReader, RegionStore, open_region_store
from .skip_report import SkipReport

STREAM_FEATURES = {"image": datasets.Image(), "captions": TEXTS, "image_id": datasets.Value("string")}
_PHOTO_COLUMNS = ("group_id", "change", "regions")  # look-alikes and labelled things: kept as they are


def canonicalise(
    table: datasets.Dataset,
    columns: Mapping[str, str] | None = None,
    image_root: Path | None = None,
    *,
    source: str = "the data set",
    pictures_needed: bool = True,
) -> datasets.Dataset:
    """Bring a table to the canonical columns, one row per photo.

    Args:
        table: Any table with a picture (or region) column and captions, photo-wise or caption-wise.
        columns: Canonical name to column, where the automatic choice is wrong.
        image_root: Folder that file names are relative to.
        source: What the table is called in messages.
        pictures_needed: Whether most of the pictures that it names must exist.

    Raises:
        ValueError: When a column is missing, or most pictures are.
    """
    if isinstance(table.format.get("format_kwargs", {}).get("transform"), RegionReader):
        return table
    column_of = find_columns(table.column_names, columns)
    captions = _captions(table, column_of)
    if "image" in column_of and holds_names(table.features[column_of["image"]]):
        return _from_paths(table, column_of, captions, image_root, columns, source, pictures_needed)
    if "image" in column_of and holds_lists(table.features[column_of["image"]]):
        table = unpack_pictures(table, column_of["image"])
    ids = photo_ids(table, column_of, picture_names(table, column_of, columns), columns)
    rows, grouped = group_by_photo(ids, captions)
    kept: dict[str, str] = {n: column_of[n] for n in ("image", "region_features", "region_boxes") if n in column_of}
    if "negative_images" in column_of and not holds_names(table.features[column_of["negative_images"]]):
        kept["negative_images"] = column_of["negative_images"]
    kept |= {name: name for name in _PHOTO_COLUMNS if name in table.column_names}
    result = table.select_columns(list(kept.values())).rename_columns({v: k for k, v in kept.items() if v != k})
    if len(rows) != len(result):
        result = result.select(rows)
    result = result.add_column("captions", grouped).add_column("image_id", [ids[row] for row in rows])
    if "image" in kept and not isinstance(result.features["image"], datasets.Image):
        result = result.cast_column("image", datasets.Image())
    return with_negatives(result, table, column_of, ids, rows, PictureFinder([], image_root).path)


def canonicalise_stream(
    stream: datasets.IterableDataset, columns: Mapping[str, str] | None = None, image_root: Path | None = None
) -> datasets.IterableDataset:
    """Bring a stream to the canonical columns, row by row, with undecoded pictures and no declared features.

    The caller declares `features_of_stream` at the end: `datasets` decodes a stream only if no step before was typed.

    Args:
        stream: Any stream with a picture column and captions.
        columns: As in [`canonicalise`].
        image_root: As in [`canonicalise`].

    Raises:
        ValueError: When a column is missing, or the stream holds regions.
    """
    names = stream.column_names or list(next(iter(stream)))
    column_of = find_columns(names, columns)
    if "image" not in column_of:
        raise ValueError("A stream needs a picture column. Load region features with streaming=False.")
    feature = (stream.features or {}).get(column_of["image"])
    if isinstance(feature, datasets.Image):
        stream = stream.cast_column(column_of["image"], datasets.Image(decode=False))
    elif holds_lists(feature):
        stream = stream.cast_column(column_of["image"], datasets.List(datasets.Image(decode=False)))
    row = _StreamRow(column_of, numbered_columns(names), image_root)
    return stream.map(row, with_indices=True, remove_columns=names)


def features_of_stream(names: Sequence[str], columns: Mapping[str, str] | None = None) -> datasets.Features:
    """Return the features of a canonical stream.

    Args:
        names: Columns of the raw stream.
        columns: As in [`canonicalise`].
    """
    column_of = find_columns(names, columns)
    return datasets.Features(STREAM_FEATURES | {k: v for k, v in NEGATIVE_FEATURES.items() if k in column_of})


def dataset_of_records(
    records: list[PhotoRecord],
    image_root: Path | None,
    *,
    source: str = "the data set",
    pictures_needed: bool = True,
) -> datasets.Dataset:
    """Return photo records as a data set with lazily decoded pictures.

    Args:
        records: Photos with file names.
        image_root: Folder that file names are relative to.
        source: What they come from, for messages.
        pictures_needed: Whether most of the pictures must exist. Without a folder they are not looked for.

    Raises:
        ValueError: When they must and do not.
    """
    _check_captions(records)
    names = [record.image for record in records]
    finder = PictureFinder(names, image_root)
    rows = {
        "image": finder.paths(names, source, required=pictures_needed and image_root is not None),
        "captions": [record.captions for record in records],
        "image_id": [record.image_id for record in records],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def attach_regions(
    photos: datasets.Dataset | list[PhotoRecord],
    features: Path,
    image_root: Path | None,
    on_error: OnError = "raise",
    report: SkipReport | None = None,
) -> datasets.Dataset:
    """Return captions with region features in place of pictures, read when a row is read.

    Args:
        photos: Captions, as a canonical data set or as records.
        features: See [`open_region_store`].
        image_root: Folder of the pictures, opened for their size when nothing else states it.
        on_error: `"skip"` leaves photos without features out.
        report: Receives (image_id, why) of those.

    Raises:
        ValueError: When a photo has no features and `on_error` is not `"skip"`.
    """
    store = open_region_store(features)
    records = photos if isinstance(photos, list) else _records_of(photos)
    keys = [next((key for key in record.region_keys if key in store), None) for record in records]
    missing = [record for record, key in zip(records, keys, strict=True) if key is None]
    if missing and (on_error != "skip" or len(missing) == len(records)):
        raise ValueError(
            f"{len(missing)} of {len(records)} photos have no features in {features}; the first is looked up as "
            f"{missing[0].region_keys}. Pass on_error='skip' to leave them out."
        )
    for record in missing:
        if report is not None:
            report.add(record.image_id, f"no region features in {features}")
    pairs = [(record, key) for record, key in zip(records, keys, strict=True) if key is not None]
    return _region_dataset(pairs, store, image_root)


def _region_dataset(
    pairs: list[tuple[PhotoRecord, str]], store: RegionStore, image_root: Path | None
) -> datasets.Dataset:
    sizes = _SizeOf(pairs, image_root)
    rows: dict[str, list[Any]] = {
        "region_features": [key for _, key in pairs],
        "region_boxes": [key for _, key in pairs],
        "captions": [record.captions for record, _ in pairs],
        "image_id": [record.image_id for record, _ in pairs],
    }
    if not store.has_boxes:
        del rows["region_boxes"]
    return datasets.Dataset.from_dict(rows).with_transform(RegionReader(store, sizes))


class _SizeOf(dict[str, tuple[int, int]]):
    """(height, width) by region key: from the annotations, otherwise from the header of the picture."""

    def __init__(self, pairs: list[tuple[PhotoRecord, str]], image_root: Path | None) -> None:
        super().__init__({key: record.image_size for record, key in pairs if record.image_size is not None})
        finder = PictureFinder([record.image for record, _ in pairs], image_root)
        named = {key: record.image for record, key in pairs if record.image and key not in self}
        self.files = {key: Path(finder.path(name)) for key, name in named.items()}

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self and key in self.files and self.files[key].is_file():
            with Image.open(self.files[key], formats=known_formats()) as image:
                self[key] = upright_size(image)[::-1]  # a detector sees the photo upright
        return super().get(key, default)


class _StreamRow:
    """Turn one raw row into a canonical one with undecoded pictures; picklable, for data-loader workers."""

    def __init__(self, column_of: Mapping[str, str], numbered: list[str], image_root: Path | None) -> None:
        self.column_of, self.numbered, self.finder = column_of, numbered, PictureFinder([], image_root)

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        cell = row.get(self.column_of["image"])
        cell = only_picture(cell, self.column_of["image"], index) if isinstance(cell, list) else cell
        name = cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else None
        if "captions" in self.column_of:
            captions = text_list(row.get(self.column_of["captions"]))
        else:
            captions = [row[name] for name in self.numbered if row.get(name)]
        image_id = row.get(self.column_of["image_id"]) if "image_id" in self.column_of else None
        if is_missing(image_id):
            image_id = name or (index if "image_id" not in self.column_of else None)
        picture = self._picture(cell)
        return {"image": picture, "captions": captions, "image_id": row_id(image_id, index), **self._negatives(row)}

    def _picture(self, source: Any) -> Any:
        if isinstance(source, str):
            return {"path": self.finder.path(source), "bytes": None}
        return {"path": None, "bytes": source} if isinstance(source, bytes) else source

    def _negatives(self, row: dict[str, Any]) -> dict[str, Any]:
        given = {name: row.get(self.column_of[name]) for name in NEGATIVE_FEATURES if name in self.column_of}
        negatives: dict[str, Any] = {name: text_list(given[name]) for name in given if name != "negative_images"}
        if "negative_images" in given:
            sources = given["negative_images"] or []
            negatives["negative_images"] = [self._picture(source) for source in sources]
        return negatives


def _from_paths(
    table: datasets.Dataset,
    column_of: Mapping[str, str],
    captions: list[list[str]],
    image_root: Path | None,
    columns: Mapping[str, str] | None,
    source: str,
    pictures_needed: bool,
) -> datasets.Dataset:
    cells = table.with_format(None)[column_of["image"]][:]
    cells = [only_picture(c, column_of["image"], row) if isinstance(c, list) else c for row, c in enumerate(cells)]
    names = [None if is_missing(cell) else cell for cell in cells]
    ids = photo_ids(table, column_of, names, columns)
    rows, grouped = group_by_photo(ids, captions)
    records = [PhotoRecord(ids[row], texts, names[row]) for row, texts in zip(rows, grouped, strict=True)]
    photos = dataset_of_records(records, image_root, source=source, pictures_needed=pictures_needed)
    return with_negatives(photos, table, column_of, ids, rows, PictureFinder(names, image_root).path)


def _captions(table: datasets.Dataset, column_of: Mapping[str, str]) -> list[list[str]]:
    plain = table.with_format(None)
    if "captions" in column_of:
        return [text_list(value) for value in plain.select_columns([column_of["captions"]])[column_of["captions"]][:]]
    names = numbered_columns(table.column_names)
    wide = plain.select_columns(names)[:]
    return [[text for text in texts if text] for texts in zip(*(wide[name] for name in names), strict=True)]


def _check_captions(records: list[PhotoRecord]) -> None:
    for record in records:
        for text in record.captions:
            try:
                check_text(text)
            except (ValueError, TypeError) as error:
                raise ValueError(f"A caption of photo {record.image_id!r} cannot be used: {error}.") from error


def _records_of(dataset: datasets.Dataset) -> list[PhotoRecord]:
    rows = dataset.with_format(None).select_columns(["captions", "image_id"])[:]
    return [
        PhotoRecord(image_id, captions, region_keys=list(dict.fromkeys([image_id, Path(image_id).stem])))
        for image_id, captions in zip(rows["image_id"], rows["captions"], strict=True)
    ]
