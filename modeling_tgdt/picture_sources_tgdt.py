# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Pictures from folders, lists, data sets and generators, each with an id, and the safe reading of one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .image_loading_tgdt import FORMATS, decode, download
from .picture_limits_tgdt import MAX_PIXELS, read_regular_file

SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
_ID_COLUMNS = ("image_id", "id", "filename", "file_name")


def read_picture(source: Any, *, max_pixels: int = MAX_PIXELS) -> Any:
    """Open a picture from a file, encoded bytes or an undecoded data-set row, and decode it fully.

    Args:
        source: Path, URL, bytes, `{"bytes": ..., "path": ...}`, or a picture that is decoded already (PIL, array,
            tensor), which is passed through.
        max_pixels: Largest width x height; checked before anything is decoded. A URL gives at most 256 MiB in 30 s.

    Returns:
        Decoded PIL picture in its own mode, or what was passed through.

    Raises:
        ValueError: When there is no picture, or it is empty, damaged, too large or of an unknown format.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise ValueError("there is no picture in this row")
    if not isinstance(source, str | os.PathLike | bytes | bytearray):
        return source
    name = "the picture" if isinstance(source, bytes | bytearray) else repr(os.fspath(source))
    try:
        data = _encoded(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {_reason(error)}") from error
    return _decode(data, name, max_pixels)


def list_pictures(folder: str | os.PathLike[str]) -> Iterator[tuple[str, Path]]:
    """Walk a folder in a fixed order and yield each picture's relative path (with `/`) and path.

    Hidden files and folders and links to folders are left out; what is a picture is told by the file's suffix.

    Raises:
        ValueError: When the folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"expected a folder of pictures, found no folder at {str(root)!r}; check the path.")
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                path = Path(parent, name)
                yield path.relative_to(root).as_posix(), path


def picture_items(source: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield (id, picture) of any source; the id is None where the source names none.

    Args:
        source: Folder, list or generator of pictures (path, URL, bytes, PIL, array, region mapping), or a
            `datasets.Dataset` with an image column (and `image_id`, when it has one).

    Raises:
        TypeError: When the source is no collection of pictures.
        ValueError: When a folder is missing or a data set has no image column.
    """
    if isinstance(source, str | os.PathLike):
        yield from list_pictures(source)
    elif _is_dataset(source):
        yield from _dataset_items(source)
    elif isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            "expected a folder, a list or generator of pictures, or a datasets.Dataset, found "
            f"{type(source).__name__}; put a single picture into a list."
        )
    else:
        for item in source:
            named = isinstance(item, str | os.PathLike)
            yield (Path(item).as_posix() if named and "://" not in str(item) else item if named else None), item


def _is_dataset(source: Any) -> bool:
    datasets = sys.modules.get("datasets")  # whoever holds a data set has imported the library, which takes seconds
    return datasets is not None and isinstance(source, datasets.Dataset | datasets.IterableDataset)


def _dataset_items(dataset: Any) -> Iterator[tuple[str | None, Any]]:
    datasets = sys.modules["datasets"]
    features = dataset.features or {}
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    column = "image" if "image" in columns else next(iter(columns), None)
    if column is None:
        raise ValueError(
            f"expected a data set with an image column, found {sorted(features)}; cast one with "
            "dataset.cast_column(name, datasets.Image())."
        )
    key = next((name for name in _ID_COLUMNS if name in features), None)
    kept = dataset.select_columns([column] if key is None else [column, key])
    for row in kept.cast_column(column, datasets.Image(decode=False)):  # decoded later, in worker threads
        yield (None if key is None else str(row[key])), row[column]


def _encoded(source: str | os.PathLike[str] | bytes | bytearray) -> bytes:
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    return download(source) if isinstance(source, str) and "://" in source else read_regular_file(source)


def _decode(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise ValueError(f"{name} has 0 bytes")
    try:
        return decode(data, max_pixels)
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise ValueError(f"{name} is no readable picture: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"expected one of the formats {', '.join(FORMATS)}"
    if isinstance(error, ValueError):
        return str(error)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


__all__ = ["FORMATS", "MAX_PIXELS", "SUFFIXES", "list_pictures", "picture_items", "read_picture"]
