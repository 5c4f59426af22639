# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Load captioned photos from anywhere into one form: image or regions, captions, image_id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .data.annotations import (
    PhotoRecord,
    caption_file_of,
    delimiter_of,
    has_pictures,
    read_annotations,
    read_delimited,
)
from .data.canonical import attach_regions, canonicalise, canonicalise_stream, dataset_of_records, features_of_stream
from .data.caption_dataset import CaptionDataset, IterableCaptionDataset
from .data.columns import nearest
from .data.image_policy import drop_unreadable, drop_unreadable_stream
from .data.region_features import ArrayStore, RegionReader, read_arrays
from .data.skip_report import SkipReport
from .data.splits import NoSplitError, is_of_split, same_splits
from .images import OnError, UnreadableImageError, check_policy

_TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
_DELIMITED = {".csv", ".tsv", ".txt"}


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
    report = SkipReport() if report is None else report
    loaded, root = _load(source, split, config_name, restval, streaming)
    root = Path(image_root) if image_root is not None else root
    if isinstance(loaded, datasets.IterableDataset):
        if features is not None:
            raise ValueError("features are read photo by photo already: load them with streaming=False.")
        return _finish_stream(loaded, root, columns, on_error, report)
    if isinstance(loaded, list):
        if features is not None:
            return attach_regions(loaded, Path(features), root, on_error, report)
        dataset = dataset_of_records(loaded, root)
    else:
        dataset = canonicalise(loaded, columns, root)
    if features is not None:
        return attach_regions(dataset, Path(features), root, on_error, report)
    dataset = drop_unreadable(dataset, on_error, report, num_proc=num_proc)
    return dataset.to_iterable_dataset() if streaming else dataset


def _finish_stream(
    stream: datasets.IterableDataset,
    root: Path | None,
    columns: Mapping[str, str] | None,
    on_error: OnError,
    report: SkipReport,
) -> datasets.IterableDataset:
    features = features_of_stream(stream.column_names or list(next(iter(stream))), columns)
    return drop_unreadable_stream(canonicalise_stream(stream, columns, root), on_error, report).cast(features)


def _load(
    source: Any, split: str | None, config_name: str | None, restval: bool, streaming: bool
) -> tuple[Any, Path | None]:
    """Return a `datasets` object or photo records, and the folder that file names are relative to."""
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return _rows_of_split(source, split, "The data set"), None
    if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return _pick(list(source), split, source.__getitem__), None
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be a path, a Hub id or a `datasets` object, found {type(source).__name__}.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_folder(path, split, restval, streaming)
    if path.is_file():
        return _load_file(path, split, restval, streaming), path.parent
    if path.is_absolute() or path.suffix in {*_TABLES, *_DELIMITED, ".token"} or str(source).count("/") > 1:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(f"There is no file or folder {str(path)!r}.{nearest(path.name, siblings)}")
    return _load_hub(str(source), split, config_name, streaming), None


def _load_hub(name: str, split: str | None, config_name: str | None, streaming: bool) -> Any:
    names = datasets.get_dataset_split_names(name, config_name)
    return _pick(
        names, split, lambda chosen: datasets.load_dataset(name, config_name, split=chosen, streaming=streaming)
    )


def _pick(names: list[str], split: str | None, load: Callable[[str], Any]) -> Any:
    """Load a split by its name; one called `train` alone is what a loader makes of unsplit data."""
    if names != ["train"]:
        return load(_only_split(names, split))
    return _rows_of_split(load("train"), split, "The data set", is_named=split == "train")


def _load_folder(folder: Path, split: str | None, restval: bool, streaming: bool) -> tuple[Any, Path]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _load(datasets.load_from_disk(str(folder)), split, None, restval, streaming)[0], folder
    if any(folder.glob("*_ims.npy")):
        return _load_precomp(folder, split), folder
    if has_pictures(folder):
        return _load_file(caption_file_of(folder, split), split, restval, streaming), folder
    files = [file for file in folder.rglob("*") if file.suffix in {*_TABLES, *_DELIMITED}]
    if len(files) == 1:
        return _load_file(files[0], split, restval, streaming), files[0].parent
    if not files:
        raise ValueError(
            f"Expected pictures with a captions file, or Parquet, JSONL or CSV files in {folder}, found "
            f"{sorted(entry.name for entry in folder.iterdir())[:10]}."
        )
    return _load_hub(str(folder), split, None, streaming), folder


def _load_file(path: Path, split: str | None, restval: bool, streaming: bool) -> Any:
    records = read_annotations(path, split, restval=restval)
    if records is not None:
        return records
    if path.suffix in _DELIMITED and not streaming:
        table = datasets.Dataset.from_dict(read_delimited(path))
    elif path.suffix in _TABLES or path.suffix in _DELIMITED:
        kind = _TABLES.get(path.suffix, "csv")
        options = {} if kind != "csv" else {"sep": delimiter_of(path)}
        table = datasets.load_dataset(
            kind, data_files=str(path).replace("[", "[[]"), split="train", streaming=streaming, **options
        )
    else:
        raise ValueError(
            f"Cannot read captions from {path.name!r}. Expected .parquet, .jsonl, .json, .csv, .tsv, .txt or .token; "
            "region features (.npz, .npy, .tsv, .h5) go to features=, beside the captions file."
        )
    is_named = split is not None and is_of_split(path.stem, split)
    return _rows_of_split(table, split, path.name, is_named=is_named)


def _rows_of_split(table: Any, split: str | None, source: str, *, is_named: bool = False) -> Any:
    """Keep the rows of a split: by the column `split`, all of them where the source is named after the split."""
    if split is None:
        return table
    if "split" not in (table.column_names or []):
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
    captions = (folder / f"{split}_caps.txt").read_text(encoding="utf-8").splitlines()
    if not store.rows or len(captions) % store.rows:
        raise ValueError(f"{split}_caps.txt has {len(captions)} lines for {store.rows} photos: not a whole multiple.")
    first = read_arrays(store.path, "r")[:, 0]
    fresh = [row == 0 or not np.array_equal(first[row], first[row - 1]) for row in range(store.rows)]
    photos = np.flatnonzero(fresh) if len(captions) == store.rows else np.arange(store.rows)
    groups = np.split(np.array(captions, dtype=object), photos[1:] * (len(captions) // store.rows))
    ids_file = folder / f"{split}_ids.txt"
    ids = ids_file.read_text().split() if ids_file.is_file() else []
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
