# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Pictures from folders, lists, data sets and generators, each with an id."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..image_loading_tgdt import known_formats

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
# Pictures by their names that are read only where their content is of a known format.
_OTHER_SUFFIXES = (
    *(".arw", ".avifs", ".cr2", ".cr3", ".dib", ".dng", ".eps", ".heic", ".heics", ".heif", ".hif", ".ico", ".jpe"),
    *(".jpf", ".jpx", ".jxl", ".mpo", ".nef", ".orf", ".pcx", ".psd", ".raf", ".rw2", ".svg", ".tga", ".xcf"),
)
HEIF_HINT = "HEIC pictures are read with the extra `heif`: pip install pillow-heif"
_HEAD = 32  # bytes that tell a format
_HEIF_BRANDS = (b"hei", b"hev", b"mif", b"msf")


def looks_like_picture(name: str) -> bool:
    """Tell whether a file is called like a picture, whether or not it can be read here."""
    return name.lower().endswith((*SUFFIXES, *_OTHER_SUFFIXES))


def picture_inside(folder: Path, name: str) -> Path | None:
    """Return the file of an id below a folder; None for an id that leads out of it, or that is not a name of a file.

    Args:
        folder: Folder that was indexed.
        name: Id of an item; a gallery may come from anybody.
    """
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (ValueError, OSError):  # a NUL, or too long
        return None


def list_pictures(
    folder: str | os.PathLike[str], left_out: dict[str, str] | None = None
) -> Iterator[tuple[str, Path]]:
    """Walk a folder in a fixed order and yield each picture's relative path (with `/`) and path.

    Hidden files and folders and links to folders are left out. What is a picture is told by the file's suffix, and
    where that is none of `SUFFIXES` by its first bytes.

    Args:
        folder: The folder.
        left_out: Receives the relative path of every other file, and why it is not a picture.

    Raises:
        ValueError: When the folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"Expected a folder of pictures, found no folder at {str(root)!r}. Check the path.")
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(parent, name)
            item_id = path.relative_to(root).as_posix()
            why = None if name.lower().endswith(SUFFIXES) else _why_no_picture(path)
            if why is None:
                yield item_id, path
            elif left_out is not None:
                left_out[item_id] = why


def row_id(value: Any, row: int) -> str:
    """Return the id of a row as text; where it is missing (None, NaN, empty), the row's number stands in.

    Raises:
        ValueError: When it is bytes that are not UTF-8.

    Example:
        >>> row_id(7, 0), row_id(7.0, 0), row_id(b"7", 0), row_id(None, 3), row_id(float("nan"), 4)
        ('7', '7', '7', 'row-3', 'row-4')
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"The id of row {row} is not UTF-8 text: {value!r}. Give ids as text.") from error
    if is_missing(value):
        return f"row-{row}"
    whole = isinstance(value, float) and value.is_integer()  # how tables with gaps keep whole numbers
    return str(int(value) if whole else value)


def is_missing(value: Any) -> bool:
    """Tell whether a cell of a table says nothing: None, NaN, or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def picture_items(source: Any, left_out: dict[str, str] | None = None) -> Iterator[tuple[str | None, Any]]:
    """Yield (id, picture) of any source; the id is None where the source names none.

    Args:
        source: Folder, list or generator of pictures (path, URL, bytes, PIL, array, region mapping), or a
            `datasets.Dataset` with an image column (and `image_id`, when it has one).
        left_out: See `list_pictures`.

    Raises:
        TypeError: When the source is not a collection of pictures.
        ValueError: When a folder is missing or a data set has no image column.
    """
    if isinstance(source, str | os.PathLike):
        yield from list_pictures(source, left_out)
    elif _is_dataset(source):
        yield from _dataset_items(source)
    elif isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            "Expected a folder, a list or generator of pictures, or a datasets.Dataset, found "
            f"{type(source).__name__}. Put a single picture into a list."
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
            f"Expected a data set with an image column, found {sorted(features)}. Cast one with "
            "dataset.cast_column(name, datasets.Image())."
        )
    key = next((name for name in _ID_COLUMNS if name in features), None)
    kept = dataset.select_columns([column] if key is None else [column, key])
    rows = kept.cast_column(column, datasets.Image(decode=False))  # decoded later, in worker threads
    for number, row in enumerate(rows):
        yield (None if key is None else row_id(row[key], number)), row[column]


def _why_no_picture(path: Path) -> str | None:
    """Return why a file of an unknown suffix is not a picture, or None when its first bytes say that it is one."""
    if not path.is_file():
        return "it is not a file"
    try:
        with path.open("rb") as file:
            kind = _format_of(file.read(_HEAD))
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    if kind in known_formats():
        return None
    if kind == "HEIF":
        return HEIF_HINT
    return f"it is not a picture of a known format by its content; its suffix is {path.suffix or 'missing'}"


def _format_of(head: bytes) -> str | None:
    """Tell a format by the first bytes, as Pillow calls it; not those that the raw files of cameras share."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"GIF8")):
        return "PNG" if head[0] == 0x89 else "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIF" if head[8:11] in _HEIF_BRANDS else None
    return None


__all__ = [
    "HEIF_HINT",
    "SUFFIXES",
    "is_missing",
    "list_pictures",
    "looks_like_picture",
    "picture_inside",
    "picture_items",
    "row_id",
]
