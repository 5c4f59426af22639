# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Read the annotation files of caption benchmarks: Karpathy splits, COCO captions, Flickr token files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeling_tgdt.retriever.picture_sources import looks_like_picture

from .columns import nearest
from .splits import NoSplitError, has_word, is_of_split, say_all_splits, word_for
from .text_files import read_text, text_lines

_CAPTION_SUFFIXES = {".jsonl", ".json", ".csv", ".tsv", ".txt", ".token", ".parquet"}
_SPREADSHEETS = {".xls", ".xlsx", ".ods", ".numbers"}


@dataclass
class PhotoRecord:
    """One photo and its captions, as an annotation file states them.

    Attributes:
        image_id: Photo id of the benchmark.
        captions: Its captions.
        image: File name relative to the image root, or None.
        region_keys: Names under which its region features may be filed, best first.
        image_size: (height, width) in pixels, when the file states it.
    """

    image_id: str
    captions: list[str] = field(default_factory=list)
    image: str | None = None
    region_keys: list[str] = field(default_factory=list)
    image_size: tuple[int, int] | None = None


def read_annotations(path: Path, split: str | None, *, restval: bool = True) -> list[PhotoRecord] | None:
    """Read a JSON, token or delimited caption file that needs more than a table loader.

    Args:
        path: The file.
        split: Split to keep. A Karpathy file states that of each photo; any other must be named after it.
        restval: Whether Karpathy's `restval` part of COCO belongs to `train`, as in the literature.

    Returns:
        Photos in file order, or None when the file is an ordinary table.

    Raises:
        NoSplitError: When nothing says which photos belong to the split.
        ValueError: When the split does not exist, or the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            content = _json_document(path)
            if isinstance(content, dict) and "images" in content:
                if "annotations" not in content:
                    return karpathy_records(content, split, restval)
                _check_name(path, split)
                return coco_records(content)
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            reason = (
                f"{type(error).__name__}: {error}"
                if not isinstance(error, RecursionError)
                else "it is nested too deep"
            )
            raise ValueError(f"{path} is not a captions file in Karpathy's or COCO's form ({reason}).") from error
        return None
    if suffix in (".txt", ".token"):
        lines = text_lines(path)
        if any("#" in line.split("\t")[0] for line in lines[:1]) or suffix == ".token":
            _check_name(path, split)
            return token_records(lines)
    return None


def karpathy_records(content: Mapping[str, Any], split: str | None, restval: bool = True) -> list[PhotoRecord]:
    """Read a Karpathy split file (`dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`).

    Args:
        content: The parsed file: `images[]` with `split`, `filename`, `sentences[].raw`.
        split: `train`, `val`, `test`, or None for all.
        restval: Whether `restval` photos count as `train`.

    Raises:
        ValueError: When no photo belongs to the split.
    """
    images = content["images"]
    split = "val" if split in ("validation", "dev") else split
    wanted = {split, "restval"} if split == "train" and restval else {split}
    if split is None:
        say_all_splits("Karpathy's file", (image.get("split") for image in images))
    records = []
    for index, image in enumerate(images):
        if split is not None and image.get("split") not in wanted:
            continue
        stem = Path(image["filename"]).stem
        number = str(image.get("cocoid", image.get("imgid", index)))
        records.append(
            PhotoRecord(
                image_id=number if "cocoid" in image else stem,
                captions=[sentence["raw"] for sentence in image["sentences"]],
                image=str(Path(image.get("filepath") or "") / image["filename"]),
                region_keys=list(dict.fromkeys([number, stem])),
                image_size=_size(image),
            )
        )
    if not records:
        raise ValueError(_no_split(split, {str(image.get("split")) for image in images}))
    return records


def coco_records(content: Mapping[str, Any]) -> list[PhotoRecord]:
    """Read a COCO caption file (`captions_val2017.json`).

    Args:
        content: The parsed file: `images[]` with `id` and `file_name`, `annotations[]` with `image_id` and `caption`.

    Raises:
        ValueError: When an annotation names an unknown photo.
    """
    records = {
        image["id"]: PhotoRecord(
            image_id=str(image["id"]),
            image=image.get("file_name"),
            region_keys=[str(image["id"]), Path(image.get("file_name", "")).stem],
            image_size=_size(image),
        )
        for image in content["images"]
    }
    for annotation in content["annotations"]:
        if annotation["image_id"] not in records:
            raise ValueError(
                f"Annotation {annotation.get('id')} belongs to photo {annotation['image_id']!r}, which `images` does "
                "not list. Take the captions file of the same split."
            )
        records[annotation["image_id"]].captions.append(annotation["caption"])
    return [record for record in records.values() if record.captions]


def token_records(lines: Iterable[str]) -> list[PhotoRecord]:
    """Read `name.jpg#0<tab>caption` lines (Flickr8k.token.txt, results_20130124.token).

    Args:
        lines: Lines of the file.

    Raises:
        ValueError: When a line has another form.
    """
    records: dict[str, PhotoRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise ValueError(f"Line {number} of the token file should be 'name.jpg#0<tab>caption', found {line!r}.")
        name = name.rsplit("#", 1)[0]
        stem = Path(name).stem
        records.setdefault(name, PhotoRecord(stem, [], name, [stem])).captions.append(caption.strip())
    return list(records.values())


def caption_file_of(folder: Path, split: str | None) -> Path:
    """Find the captions file of an image folder.

    Args:
        folder: Folder of pictures, or above them.
        split: Preferred when it is a word of a file name; `val`, `dev` and `validation` are the same.

    Raises:
        ValueError: When there is none, or no way to choose.
    """
    shown = sorted(file for file in folder.iterdir() if not file.name.startswith((".", "~$")))
    files = [f for f in shown if f.suffix.lower() in _CAPTION_SUFFIXES and "readme" not in f.name.lower()]
    word = word_for(split, (file.stem for file in files))
    if word:
        files = [file for file in files if has_word(file.stem, word)]
    for stem in ("caption", "metadata", "annotation", "result", "token", "dataset"):
        files = [file for file in files if stem in file.name.lower()] or files
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(
            f"Expected one captions file (captions.jsonl, .csv, .json, .txt ...) in {folder}, found {found}. "
            f"Name it captions.jsonl, or pass the file itself with image_root=the folder.{_spreadsheet(shown)}"
        )
    return files[0]


def _check_name(path: Path, split: str | None) -> None:
    if split is not None and not is_of_split(path.stem, split):
        raise NoSplitError(path.name, split)


def has_pictures(folder: Path) -> bool:
    """Return whether a folder or one of its direct sub-folders holds picture files.

    Args:
        folder: The folder.
    """
    return any(looks_like_picture(file.name) for file in _two_levels(folder))


def _two_levels(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from entry.iterdir()
        else:
            yield entry


def _json_document(path: Path) -> Any:
    """Return what a JSON file holds; None for JSON lines, which the table reader takes."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError:
        first = text.lstrip().partition("\n")[0]
        try:
            json.loads(first)
        except ValueError:
            raise ValueError(f"{path} is not JSON, and neither is its first line: {first[:80]!r}.") from None
        return None


def _spreadsheet(files: Iterable[Path]) -> str:
    sheet = next((file.name for file in files if file.suffix.lower() in _SPREADSHEETS), None)
    return "" if sheet is None else f" {sheet} is a spreadsheet: save it as CSV."


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    return (int(image["height"]), int(image["width"])) if "height" in image and "width" in image else None


def _no_split(split: str | None, known: set[str]) -> str:
    return f"There is no split {split!r} in this file. Found {sorted(known)}.{nearest(str(split), known)}"
