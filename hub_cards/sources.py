# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the cards say about data sets and backbones: names on the Hub, licences, where their terms are written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class DataSource:
    """A data set of captioned photos.

    Attributes:
        name: Its usual name.
        key: Short name, used for file names.
        hub_id: A copy on the Hub; None when there is none.
        terms: Licence or terms of use, in a sentence.
        terms_url: Where they are written.
        free: Whether the terms put no condition on what is trained on the data.
    """

    name: str
    key: str
    hub_id: str | None
    terms: str
    terms_url: str | None = None
    free: bool = False


_SOURCES = {
    "flickr30k": DataSource(
        "Flickr30K",
        "flickr30k",
        "nlphuji/flickr30k",
        "Photos of Flickr under Flickr's terms of use, for non-commercial research and education only.",
        "https://shannon.cs.illinois.edu/DenotationGraph/",
    ),
    "flickr8k": DataSource(
        "Flickr8k",
        "flickr8k",
        "jxie/flickr8k",
        "Photos of Flickr under Flickr's terms of use, for non-commercial research and education only.",
        "https://hockenmaier.cs.illinois.edu/8k-pictures.html",
    ),
    "coco": DataSource(
        "COCO Captions",
        "coco",
        "yerevann/coco-karpathy",
        "Captions under CC BY 4.0; photos of Flickr under Flickr's terms of use.",
        "https://cocodataset.org/#termsofuse",
    ),
    "scenes": DataSource(
        "Scenes", "scenes", None, "Drawn by the package itself, no third-party material; Apache 2.0.", free=True
    ),
}
_OTHER_NAMES = {"f30k": "flickr30k"}


def data_source(record: Mapping[str, Any]) -> DataSource | None:
    """Tell which data a run was trained on; None when the record names none that is known or on the Hub.

    The data set that the record or the command names decides; only where neither does, the recipe's name.

    Args:
        record: Content of `run.json`.
    """
    recipe = record.get("recipe") or {}
    words = shlex.split(record.get("command") or "")
    options = {key: value for key, value in zip(words, words[1:], strict=False) if key.startswith("--")}
    dataset: Any = record.get("dataset") or options.get("--dataset") or recipe.get("dataset")
    name = str(dataset or options.get("--recipe") or record.get("recipe_name") or "")
    if is_hub_id(dataset):
        known = next((source for source in _SOURCES.values() if source.hub_id == dataset), None)
        return known or DataSource(dataset, dataset.rpartition("/")[2], dataset, "See the card of the data set.")
    return _known(name)


def is_hub_id(name: Any) -> bool:
    """Return whether a name looks like `user/name` of the Hub rather than a path.

    Example:
        >>> is_hub_id("google/siglip2-base-patch16-224"), is_hub_id("/data/model"), is_hub_id("data/x.json")
        (True, False, False)
    """
    suffixes = (".json", ".parquet", ".csv", ".jsonl", ".tsv")
    return isinstance(name, str) and bool(_HUB_ID.fullmatch(name)) and not name.endswith(suffixes)


def _known(text: str) -> DataSource | None:
    """Find a data set whose name is a word of the last part of a path; `scenes` must be all of it."""
    if text in ("scenes", "scenes_sized", "scenes_hard"):
        return _SOURCES["scenes"]
    stem = text.lower().rstrip("/").rpartition("/")[2]
    names = {name: name for name in _SOURCES if name != "scenes"} | _OTHER_NAMES
    keys = (key for name, key in names.items() if re.search(rf"(?<![a-z0-9]){name}(?![a-z])", stem))
    return next((_SOURCES[key] for key in keys), None)


__all__ = ["DataSource", "data_source", "is_hub_id"]
