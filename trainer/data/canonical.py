# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Bring tables and photo records to the canonical columns: image or regions, captions, image_id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from modeling_tgdt.encoding_tgdt import check_text
from modeling_tgdt.image_loading_tgdt import known_formats, upright_size
from modeling_tgdt.picture_sources_tgdt import is_missing, row_id

from ..images import OnError
from .annotations import PhotoRecord
from .columns import find_columns, numbered_columns
from .names import PictureFinder
from .picture_lists import holds_lists, only_picture, unpack_pictures
from .region_features import RegionReader, RegionStore, open_region_store
from .skip_report import SkipReport

logger = logging.getLogger(__name__)

_GENERIC_IDS = ("id", "key")  # may be an id of a caption as well

STREAM_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("string"),
    }
)


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
    found = find_columns(table.column_names, columns)
    captions = _captions(table, found)
    if "image" in found and _is_path(table.features[found["image"]]):
        paths = [path or None for path in table.with_format(None)[found["image"]][:]]
        ids = _ids(table, found, paths, columns)
        rows, grouped = _group(ids, captions)
        records = [PhotoRecord(ids[row], texts, paths[row]) for row, texts in zip(rows, grouped, strict=True)]
        return dataset_of_records(records, image_root, source=source, pictures_needed=pictures_needed)
    if "image" in found and holds_lists(table.features[found["image"]]):
        table = unpack_pictures(table, found["image"])
    ids = _ids(table, found, [None] * len(table), columns)
    rows, grouped = _group(ids, captions)
    kept = {name: found[name] for name in ("image", "region_features", "region_boxes") if name in found}
    result = table.select_columns(list(kept.values())).rename_columns({v: k for k, v in kept.items() if v != k})
    if len(rows) != len(result):
        result = result.select(rows)
    result = result.add_column("captions", grouped).add_column("image_id", [ids[row] for row in rows])
    if "image" in kept and not isinstance(result.features["image"], datasets.Image):
        result = result.cast_column("image", datasets.Image())
    return result


def canonicalise_stream(
    stream: datasets.IterableDataset, columns: Mapping[str, str] | None = None, image_root: Path | None = None
) -> datasets.IterableDataset:
    """Bring a stream to the canonical columns, row by row, with undecoded pictures and no declared features.

    The caller declares `STREAM_FEATURES` at the end: `datasets` decodes a stream only if no step before was typed.

    Args:
        stream: Any stream with a picture column and captions.
        columns: As in [`canonicalise`].
        image_root: As in [`canonicalise`].

    Raises:
        ValueError: When a column is missing, or the stream holds regions.
    """
    names = stream.column_names or list(next(iter(stream)))
    found = find_columns(names, columns)
    if "image" not in found:
        raise ValueError("A stream needs a picture column. Load region features with streaming=False.")
    feature = (stream.features or {}).get(found["image"])
    if isinstance(feature, datasets.Image):
        stream = stream.cast_column(found["image"], datasets.Image(decode=False))
    elif holds_lists(feature):
        stream = stream.cast_column(found["image"], datasets.List(datasets.Image(decode=False)))
    row = _StreamRow(found, numbered_columns(names), image_root)
    return stream.map(row, with_indices=True, remove_columns=names)


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
    """Turn one raw row into a canonical one; picklable, for data-loader workers."""

    def __init__(self, found: Mapping[str, str], numbered: list[str], image_root: Path | None) -> None:
        self.found, self.numbered, self.finder = found, numbered, PictureFinder([], image_root)

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        image = row.get(self.found["image"])
        if isinstance(image, list):
            image = only_picture(image, self.found["image"], index)
        name = image.get("path") if isinstance(image, dict) else image if isinstance(image, str) else None
        if isinstance(image, str):
            image = {"path": self.finder.path(image), "bytes": None}
        elif isinstance(image, bytes):
            image = {"path": None, "bytes": image}
        if "captions" in self.found:
            captions = _as_list(row.get(self.found["captions"]))
        else:
            captions = [row[name] for name in self.numbered if row.get(name)]
        image_id = row.get(self.found["image_id"]) if "image_id" in self.found else None
        if is_missing(image_id):
            image_id = name or (index if "image_id" not in self.found else None)
        return {"image": image, "captions": captions, "image_id": row_id(image_id, index)}


def _is_path(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _captions(table: datasets.Dataset, found: Mapping[str, str]) -> list[list[str]]:
    plain = table.with_format(None)
    if "captions" in found:
        return [_as_list(value) for value in plain.select_columns([found["captions"]])[found["captions"]][:]]
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


def _as_list(value: Any) -> list[str]:
    """Return captions as strings: from one string, a list, or a list of Karpathy sentences with `raw`."""
    if value is None:
        return []
    values = [value] if isinstance(value, (str, Mapping)) else list(value)
    texts = [item.get("raw", item.get("caption")) if isinstance(item, Mapping) else item for item in values]
    wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"Captions must be text or lists of text, found {type(wrong).__name__}: {wrong!r}.")
    return [text for text in texts if text is not None and text.strip()]


def _ids(
    table: datasets.Dataset,
    found: Mapping[str, str],
    paths: list[str | None],
    columns: Mapping[str, str] | None,
) -> list[str]:
    """Return photo ids: the id column, otherwise the picture's path, otherwise the row number.

    A row without an id is a photo of its own. An id column that numbers the captions of pictures that repeat names no
    photos, unless `columns` says that it does.
    """
    if "image_id" not in found:
        values: list[Any] = [None] * len(table)
    else:
        values = table.with_format(None).select_columns([found["image_id"]])[found["image_id"]][:]
    missing = [is_missing(value) for value in values]
    named = {path for path in paths if path}
    generic = found.get("image_id", "").lower() in _GENERIC_IDS and "image_id" not in (columns or {})
    repeat = None not in paths and len(named) < len(values)  # pictures that come in several rows
    if generic and repeat and len({str(value) for value in values}) == len(values):
        logger.warning(
            "Column %r numbers the rows, of which %d show %d pictures: photos are told by the picture instead. Pass "
            "columns={'image_id': %r} to keep it.", found["image_id"], len(values), len(named), found["image_id"]
        )  # fmt: skip
        missing = [True] * len(values)
    elif "image_id" in found and any(missing):
        logger.warning(
            "%d rows have no %r, the first is row %d; each is a photo of its own.",
            sum(missing), found["image_id"], missing.index(True),
        )  # fmt: skip
    picked = [path if gone else value for path, value, gone in zip(paths, values, missing, strict=True)]
    return [row_id(value, row) if "image_id" in found or value else str(row) for row, value in enumerate(picked)]


def _group(ids: list[str], captions: list[list[str]]) -> tuple[list[int], list[list[str]]]:
    """Return the first row of every photo and all of its captions, in order of appearance."""
    rows: dict[str, int] = {}
    grouped: dict[str, list[str]] = {}
    for row, (image_id, texts) in enumerate(zip(ids, captions, strict=True)):
        rows.setdefault(image_id, row)
        grouped.setdefault(image_id, []).extend(texts)
    return list(rows.values()), list(grouped.values())


def _records_of(dataset: datasets.Dataset) -> list[PhotoRecord]:
    rows = dataset.with_format(None).select_columns(["captions", "image_id"])[:]
    return [
        PhotoRecord(image_id, captions, region_keys=list(dict.fromkeys([image_id, Path(image_id).stem])))
        for image_id, captions in zip(rows["image_id"], rows["captions"], strict=True)
    ]
