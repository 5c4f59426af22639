# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Read Flickr30k Entities (arXiv 1505.04870): captions whose phrases are linked to boxes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets

_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")
_NOT_VISUAL = "0"
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("string"),
        "things": datasets.List(datasets.List(datasets.List(datasets.Value("float32"), length=4))),
        "phrases": datasets.List(
            datasets.List(
                {
                    "start": datasets.Value("int32"),
                    "end": datasets.Value("int32"),
                    "kind": datasets.Value("string"),
                    "things": datasets.List(datasets.Value("int32")),
                }
            )
        ),
    }
)


def is_flickr30k_entities(source: str | Path) -> bool:
    """Tell whether a path is a folder of Flickr30k Entities: it has `Sentences` and `Annotations`."""
    return all(Path(source, name).is_dir() for name in ("Sentences", "Annotations"))


def load_flickr30k_entities(folder: str | Path, image_root: str | Path, split: str | None = None) -> datasets.Dataset:
    """Load photos, captions, and which boxes the phrases of the captions name.

    Args:
        folder: Folder with `Sentences/<id>.txt` and `Annotations/<id>.xml`, as the authors publish it.
        image_root: Folder with the pictures, `<id>.jpg`.
        split: Name of a file of ids, `<split>.txt` in `folder`; all photos when omitted.

    Returns:
        Data set with `image`, `captions`, `image_id`, `things` (boxes xyxy in pixels of each thing) and `phrases` (for
        each caption `start` and `end` in characters, `kind` such as "people", and `things`), for
        [`evaluate_grounding`]. Phrases of no visible thing, or of one without a box, are left out.

    Raises:
        ValueError: When a file is missing or damaged.
    """
    folder, image_root = Path(folder), Path(image_root)
    rows = [_photo(folder, image_root, name) for name in _names(folder, split)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def parse_sentence(line: str) -> tuple[str, list[tuple[int, int, str, str]]]:
    """Split an annotated sentence into the caption and its phrases.

    Args:
        line: Such as `[/EN#1/people A man] sits .`

    Returns:
        The caption, and for each phrase start and end in characters, kind, and the id of the thing.

    Example:
        >>> parse_sentence("[/EN#7/people A man] sits on [/EN#9/other a chair] .")
        ('A man sits on a chair .', [(0, 5, 'people', '7'), (14, 21, 'other', '9')])
    """
    caption, phrases, last = "", [], 0
    for match in _PHRASE.finditer(line):
        caption += line[last : match.start()]
        phrases.append((len(caption), len(caption) + len(match[3]), match[2].split("/")[0], match[1]))
        caption, last = caption + match[3], match.end()
    return caption + line[last:], phrases


def _names(folder: Path, split: str | None) -> list[str]:
    if split is None:
        names = sorted(path.stem for path in (folder / "Sentences").glob("*.txt"))
    elif (folder / f"{split}.txt").is_file():
        names = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
    else:
        splits = sorted(path.stem for path in folder.glob("*.txt"))
        raise ValueError(f"Expected {split}.txt with the ids of the split in {folder}, found {splits}.")
    if not names:
        raise ValueError(f"Expected sentence files Sentences/<id>.txt in {folder}, found none.")
    return names


def _photo(folder: Path, image_root: Path, name: str) -> dict[str, Any]:
    sentences, annotations = folder / "Sentences" / f"{name}.txt", folder / "Annotations" / f"{name}.xml"
    for path in (sentences, annotations):
        if not path.is_file():
            raise ValueError(f"Photo {name} needs {path}, which does not exist.")
    boxes = _boxes(annotations)
    number = {thing: position for position, thing in enumerate(boxes)}
    parsed = [
        parse_sentence(line.strip()) for line in sentences.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return {
        "image": str(image_root / f"{name}.jpg"),
        "captions": [caption for caption, _ in parsed],
        "image_id": name,
        "things": list(boxes.values()),
        "phrases": [
            [
                {"start": start, "end": end, "kind": kind, "things": [number[thing]]}
                for start, end, kind, thing in phrases
                if thing in number
            ]
            for _, phrases in parsed
        ],
    }


def _boxes(path: Path) -> dict[str, list[list[float]]]:
    """Return the boxes of each thing of an annotation file, by its id."""
    boxes: dict[str, list[list[float]]] = {}
    try:
        for entry in ElementTree.parse(path).getroot().iter("object"):
            corners = entry.find("bndbox")
            if corners is None:  # the whole scene, or nothing to see
                continue
            box = [float(corners.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
            for thing in entry.findall("name"):
                if thing.text and thing.text != _NOT_VISUAL:
                    boxes.setdefault(thing.text, []).append(box)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not an annotation file of Flickr30k Entities: {error}.") from error
    return boxes
