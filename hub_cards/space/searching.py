# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the buttons of the demo page do, without the page: search, and explain a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_tgdt.picture_sources_tgdt import read_picture

from .collection import MAX_PIXELS, Collection


@dataclass(frozen=True)
class Results:
    """What a search shows.

    Attributes:
        query: The words; None after a search by picture.
        ids: Of the hits, best first.
        tiles: (picture, caption) of each hit.
        rows: Rank, id, mixed score, score of stage one, score of stage two.
        message: What to tell the visitor.
    """

    query: str | None
    ids: list[str]
    tiles: list[tuple[Image.Image, str]]
    rows: list[list[Any]]
    message: str


def search(
    collection: Collection | None,
    words: str | None,
    picture: str | Path | Image.Image | None,
    *,
    candidates: int = 100,
    mix: float = 0.5,
    top_k: int = 12,
) -> Results:
    """Search by words or by a picture; what cannot be searched becomes a message.

    Args:
        collection: What to search.
        words: Query; goes first when both are given.
        picture: Query, a file or a decoded picture.
        candidates: Size of the shortlist of stage one.
        mix: Share of stage two (tokens) in the mixed score, 0 to 1.
        top_k: Results.
    """
    words = (words or "").strip()
    if collection is None or not len(collection):
        return _nothing("There is nothing to search yet: upload some pictures.")
    if not words and picture is None:
        return _nothing("Type some words, or choose a picture.")
    settings = collection.retriever.index.settings if collection.retriever.index else {}
    total = float(settings["global_weight"] + settings["local_weight"])
    try:
        hits = collection.retriever.search(
            words or _query_picture(picture),
            top_k=int(top_k),
            candidates=int(candidates),
            global_weight=total * (1 - mix),
            local_weight=total * mix,
        )
    except ValueError as error:
        return _nothing(f"This cannot be searched for: {error}")
    rows = [
        [rank, hit.id, *map(_shown, (hit.score, hit.global_score, hit.local_score))] for rank, hit in _ranked(hits)
    ]
    tiles = [(collection.tile(hit.id), f"{rank}. {_shown(hit.score)}") for rank, hit in _ranked(hits)]
    hint = "Click a result to see which word matched where." if words else "Search by words to see what matched where."
    message = (
        f"{len(hits)} of {len(collection)}, out of a shortlist of {min(int(candidates), len(collection))}. {hint}"
    )
    return Results(words or None, [hit.id for hit in hits], tiles, rows, message)


def explain(collection: Collection, query: str | None, name: str) -> tuple[Image.Image | None, str]:
    """Draw which word of the query matched which region of a result.

    Args:
        collection: What was searched.
        query: The words; None after a search by picture.
        name: Id of the result.

    Returns:
        The drawing, or None; and a message.
    """
    picture = collection.picture(name)
    if query is None:
        return None, "Only a search by words has words to explain."
    if picture is None:
        return None, f"The picture of {name!r} is not here, only its embedding."
    try:
        alignment = collection.retriever.explain(picture, query)
        drawing = alignment.to_image(panel_width=240, columns=4)
    except ValueError as error:
        return None, f"This cannot be explained: {error}"
    pairs = zip(alignment.words, alignment.best_score, strict=True)
    return drawing, ", ".join(f"{word} {score:.2f}" for word, score in pairs)


def _query_picture(picture: Any) -> Any:
    return read_picture(Path(picture) if isinstance(picture, str) else picture, max_pixels=MAX_PIXELS)


def _ranked(hits: list[Any]) -> list[tuple[int, Any]]:
    return list(enumerate(hits, start=1))


def _shown(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"


def _nothing(message: str) -> Results:
    return Results(None, [], [], [], message)


__all__ = ["Results", "explain", "search"]
