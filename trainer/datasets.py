# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Load captioned photos from anywhere into one form: image or regions, captions, image_id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from .data.annotations import (
    PhotoRecord,
    caption_file_of,
    has_pictures,
    read_annotations,
)
from .data.canonical import attach_regions, canonicalise, canonicalise_stream, dataset_of_records, features_of_stream
from .data.caption_dataset import CaptionDataset, IterableCaptionDataset
from .data.columns import nearest
from .data.image_policy import drop_unreadable, drop_unreadable_stream
from .data.region_features import ArrayStore, RegionReader, read_arrays
from .data.skip_report import SkipReport
from .data.splits import NoSplitError, is_of_split, same_splits, say_all_splits
from .data.text_files import read_text, text_lines
from .data.text_tables import TEXT_TABLES, files_by_split, is_shown, text_table
from .images import OnError, UnreadableImageError, check_policy

_BINARY = {".parquet": "parquet", ".arrow": "arrow"}
_TABLES = {*_BINARY, *TEXT_TABLES}


def load_captions(
    source: str | Path | datasets.Dataset | datasets.IterableDataset,
    split: str | None = None,
    *,
    image_root: str | Path | None = None,
    features: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    config_name: str | None = None,
    restval: bool = True,
    streaming: bool = False,
    on_error: OnError = "raise",
    report: SkipReport | None = None,
    num_proc: int | None = None,
    max_pixels: int | None = None,
) -> Any:
    """Load captioned photos.

    Args:
        source: One of: a data set of the Hub (`org/name`); a Parquet, JSONL, CSV or TSV file, or a folder of them; a
            folder of pictures with a captions file; a Karpathy JSON or a COCO captions JSON; a Flickr token file; a
            `precomp` folder (`<split>_ims.npy`, `<split>_caps.txt`); a `datasets` object.
        split: Split to load; not needed when there is only one. It is looked up in the column `split`, then in the
            name of the file, as a whole word; `val`, `dev` and `validation` are the same there.
        image_root: Folder that file names are relative to. Default: the folder of the captions file.
        features: Region features that replace the pictures: see [`open_region_store`]; their ids are those of the
            captions (COCO: photo id; Karpathy's Flickr30K: position in the file).
        columns: Canonical name to column, where the automatic choice is wrong.
        config_name: Configuration of a Hub data set.
        restval: Whether Karpathy's `restval` photos belong to `train`.
        streaming: Whether to return an `IterableDataset` that reads as it goes. Rows are not grouped by photo.
        on_error: Unreadable pictures: `"raise"` (when they are read), `"skip"` or `"placeholder"` (each picture is
            checked once, here; in a stream as it comes by).
        report: Receives (image_id, why) of unreadable pictures.
        num_proc: Processes that check pictures.
        max_pixels: Pictures of more pixels (width x height) count as unreadable. By default, and whenever one is read
            later on, `PIL.Image.MAX_IMAGE_PIXELS` is the limit: raise that for larger ones.

    Returns:
        `datasets.Dataset` or `IterableDataset` with the columns `captions` (list of str), `image_id` (str), and either
        `image` (decoded when read) or `region_features` (R, F) and `region_boxes` (R, 4) xyxy in [0, 1]. Caption-wise
        rows of one photo are joined. Where the source has them also hard negatives for training: `negative_captions`
        (list of str), `negative_images` (list of pictures), `negative_image_ids` (list of str).

    Raises:
        ValueError: When a column, file or split is missing. The message names the nearest match.
        NoSplitError: When a split is asked for and the data are not split at all.

    Example:
        >>> rows = {"filename": ["a.jpg", "a.jpg"], "sentence": ["a cat", "a pet"]}
        >>> load_captions(datasets.Dataset.from_dict(rows))["captions"][:]
        [['a cat', 'a pet']]
    """
    check_policy(on_error)
    if max_pixels is not None and on_error == "raise":
        raise ValueError("max_pixels leaves pictures out or replaces them: pass on_error='skip' or 'placeholder' too.")
    report = SkipReport() if report is None else report
    loaded, root, name = _load(source, split, config_name, restval, streaming)
    root = Path(image_root).expanduser() if image_root is not None else root
    if isinstance(loaded, datasets.IterableDataset):
        if features is not None:
            raise ValueError("Features are read photo by photo already: load them with streaming=False.")
        with _named(name):
            return _finish_stream(loaded, root, columns, on_error, report, max_pixels)
    if isinstance(loaded, list):
        if features is not None:
            return attach_regions(loaded, Path(features), root, on_error, report)
        dataset = dataset_of_records(loaded, root, source=name)
    else:
        with _named(name):
            dataset = canonicalise(loaded, columns, root, source=name, pictures_needed=features is None)
    if features is not None:
        return attach_regions(dataset, Path(features), root, on_error, report)
    dataset = drop_unreadable(dataset, on_error, report, num_proc=num_proc, max_pixels=max_pixels)
    return dataset.to_iterable_dataset() if streaming else dataset


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let what is wrong with a source name it."""
    try:
        yield
    except ValueError as error:
        raise error if name in str(error) else ValueError(f"{name}: {error}") from error


def _finish_stream(
    stream: datasets.IterableDataset,
    root: Path | None,
    columns: Mapping[str, str] | None,
    on_error: OnError,
    report: SkipReport,
    max_pixels: int | None,
) -> datasets.IterableDataset:
    features = features_of_stream(stream.column_names or list(next(iter(stream))), columns)
    read = canonicalise_stream(stream, columns, root)
    return drop_unreadable_stream(read, on_error, report, max_pixels).cast(features)


class _Loaded(NamedTuple):
    """A `datasets` object or photo records, the folder that file names are relative to, and what to call it."""

    rows: Any
    root: Path | None
    name: str


def _load(source: Any, split: str | None, config_name: str | None, restval: bool, streaming: bool) -> _Loaded:
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return _Loaded(_rows_of_split(source, split, "The data set"), None, "the data set")
    if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return _Loaded(_pick(list(source), split, source.__getitem__), None, "the data set")
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be a path, a Hub id or a `datasets` object, found {type(source).__name__}.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_folder(path, split, restval, streaming)
    if path.is_file():
        return _Loaded(_load_file(path, split, restval, streaming), path.parent, str(path))
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)
    if path.is_absolute() or path.suffix in {*_TABLES, ".token"} or str(source).count("/") > 1:
        raise ValueError(f"There is no file or folder {str(path)!r}.{hint}")
    return _Loaded(_load_hub(str(source), split, config_name, streaming, hint), None, str(source))


def _load_hub(name: str, split: str | None, config_name: str | None, streaming: bool, hint: str = "") -> Any:
    try:
        names = datasets.get_dataset_split_names(name, config_name)
    except (OSError, datasets.exceptions.DatasetsError) as error:  # not there, or nothing can be reached
        raise ValueError(
            f"There is no file or folder {name!r} here.{hint} Nor was such a data set found on the Hub: {error}"
        ) from error
    return _pick(
        names, split, lambda chosen: datasets.load_dataset(name, config_name, split=chosen, streaming=streaming)
    )


def _pick(names: list[str], split: str | None, load: Callable[[str], Any]) -> Any:
    """Load a split by its name; one called `train` alone is what a loader makes of unsplit data."""
    if names != ["train"]:
        return load(_only_split(names, split))
    return _rows_of_split(load("train"), split, "The data set", is_named=split == "train")


def _load_folder(folder: Path, split: str | None, restval: bool, streaming: bool) -> _Loaded:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        return _Loaded(_load(saved, split, None, restval, streaming).rows, folder, str(folder))
    if any(folder.glob("*_ims.npy")):
        return _Loaded(_load_precomp(folder, split), folder, str(folder))
    if has_pictures(folder):
        file = caption_file_of(folder, split)
        return _Loaded(_load_file(file, split, restval, streaming), folder, str(file))
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _TABLES and is_shown(file, folder))
    if len(files) == 1:
        return _Loaded(_load_file(files[0], split, restval, streaming), files[0].parent, str(files[0]))
    if not files:
        raise ValueError(
            f"Expected pictures with a captions file, or Parquet, JSONL or CSV files in {folder}, found "
            f"{sorted(entry.name for entry in folder.iterdir())[:10]}."
        )
    if all(file.suffix.lower() in TEXT_TABLES for file in files):
        parts = files_by_split(files)
        rows = _pick(list(parts), split, lambda chosen: text_table(parts[chosen], streaming=streaming))
        return _Loaded(rows, folder, str(folder))
    return _Loaded(_load_hub(str(folder), split, None, streaming), folder, str(folder))


def _load_file(path: Path, split: str | None, restval: bool, streaming: bool) -> Any:
    records = read_annotations(path, split, restval=restval)
    if records is not None:
        return records
    suffix = path.suffix.lower()
    if suffix in TEXT_TABLES:
        table = text_table([path], streaming=streaming)
    elif suffix in _BINARY:
        table = _load_binary(path, streaming)
    else:
        raise ValueError(
            f"Cannot read captions from {path.name!r}. Expected .parquet, .jsonl, .json, .csv, .tsv, .txt or .token; "
            "region features (.npz, .npy, .tsv, .h5) go to features=, beside the captions file."
        )
    is_named = split is not None and is_of_split(path.stem, split)
    return _rows_of_split(table, split, path.name, is_named=is_named)


def _load_binary(path: Path, streaming: bool) -> Any:
    file, kind = str(path).replace("[", "[[]"), _BINARY[path.suffix.lower()]
    try:
        return datasets.load_dataset(kind, data_files=file, split="train", streaming=streaming)
    except (pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{path} is not a readable {kind} file: {reason}. Write it again.") from error


def _rows_of_split(table: Any, split: str | None, source: str, *, is_named: bool = False) -> Any:
    """Keep the rows of a split: by the column `split`, all of them where the source is named after the split."""
    if split is None:
        if isinstance(table, datasets.Dataset) and "split" in table.column_names:
            say_all_splits(source, table.unique("split"))
        return table
    if "split" not in (table.column_names or next(iter(table), {})):
        if is_named:
            return table
        raise NoSplitError(source, split)
    if isinstance(table, datasets.IterableDataset):
        return table.filter(_InSplit(split))
    column = np.array([str(value) for value in table.with_format(None)["split"][:]])
    return table.select(np.flatnonzero(column == _only_split(sorted(set(column.tolist())), split)))


class _InSplit:
    def __init__(self, split: str) -> None:
        self.split = split

    def __call__(self, row: dict[str, Any]) -> bool:
        return row["split"] == self.split


def _only_split(names: list[str], split: str | None) -> str:
    if split in names:
        return str(split)
    same = [name for name in names if split is not None and name in same_splits(split)]
    if len(same) == 1 or (split is None and len(names) == 1):
        return (same or names)[0]
    hint = nearest(split, names) if split else f" Pass split={names[0]!r}, for example."
    raise ValueError(f"Expected one split, asked for {split!r}. Found {names}.{hint}")


def _load_precomp(folder: Path, split: str | None) -> datasets.Dataset:
    """Read `<split>_ims.npy` (N, R, F) and `<split>_caps.txt`; photos repeated per caption are kept once."""
    split = _only_split([file.name[: -len("_ims.npy")] for file in sorted(folder.glob("*_ims.npy"))], split)
    store = ArrayStore(folder / f"{split}_ims.npy")
    captions = text_lines(folder / f"{split}_caps.txt")
    if not store.rows or len(captions) % store.rows:
        raise ValueError(f"{split}_caps.txt has {len(captions)} lines for {store.rows} photos: not a whole multiple.")
    first = read_arrays(store.path, "r")[:, 0]
    fresh = [row == 0 or not np.array_equal(first[row], first[row - 1]) for row in range(store.rows)]
    photos = np.flatnonzero(fresh) if len(captions) == store.rows else np.arange(store.rows)
    groups = np.split(np.array(captions, dtype=object), photos[1:] * (len(captions) // store.rows))
    ids_file = folder / f"{split}_ids.txt"
    ids = read_text(ids_file).split() if ids_file.is_file() else []
    names = [ids[row] if len(ids) == store.rows else str(row) for row in photos]
    rows = {"region_features": [str(row) for row in photos], "captions": [list(g) for g in groups], "image_id": names}
    return datasets.Dataset.from_dict(rows).with_transform(RegionReader(store))


__all__ = [
    "CaptionDataset",
    "IterableCaptionDataset",
    "PhotoRecord",
    "SkipReport",
    "UnreadableImageError",
    "load_captions",
]
