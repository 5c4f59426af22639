# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the buttons of the demo page do, without the page: search, and explain a result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_tgdt.image_loading_tgdt import read_regular_file
from modeling_tgdt.retriever.shown import markdown

from .collection import Collection

_RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors set it


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
    picture: str | Path | bytes | Image.Image | None,
    *,
    candidates: int = 100,
    mix: float = 0.5,
    top_k: int = 12,
) -> Results:
    """Search by words, by a picture, or by both; what cannot be searched becomes a message.

    Args:
        collection: What to search.
        words: Query.
        picture: Query, a file, its content, or a decoded picture. With words, what both find near the top comes first.
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
        queries = [*([words] if words else []), *([] if picture is None else [_query_picture(collection, picture)])]
        ranked = collection.retriever.search(
            queries,
            top_k=int(top_k) if len(queries) == 1 else max(int(candidates), int(top_k)),
            candidates=int(candidates),
            global_weight=total * (1 - mix),
            local_weight=total * mix,
        )
        hits = fuse(ranked)[: int(top_k)]
    except ValueError as error:
        return _nothing(f"This cannot be searched for: {markdown(error)}")
    rows = [
        [rank, hit.id, *map(_shown, (hit.score, hit.global_score, hit.local_score))] for rank, hit in _ranked(hits)
    ]
    tiles = [(collection.tile(hit.id), Path(hit.id).name) for hit in hits]
    hint = "Click one to see which word matched where." if words else "Add words to see which of them matched where."
    message = f"The best {len(hits)} of {len(collection):,}. {hint}"
    return Results(words or None, [hit.id for hit in hits], tiles, rows, message)


def start(collection: Collection, examples: Sequence[str], top_k: int = 12) -> Results:
    """Return what the page shows before anybody searches: the first example's results, or the first items.

    Args:
        collection: What will be searched.
        examples: Queries to offer.
        top_k: Results.
    """
    if len(collection) and examples:
        return search(collection, examples[0], None, top_k=top_k)
    names = list(islice(collection.retriever.index or (), top_k))
    tiles = [(collection.tile(name), Path(name).name) for name in names]
    message = f"{len(collection):,} in the collection." if names else "Nothing here yet: add pictures of your own."
    return Results(None, names, tiles, [], message)


def fuse(rankings: Sequence[Sequence[Any]]) -> list[Any]:
    """Join rankings of one collection by reciprocal ranks (Cormack et al., SIGIR 2009), best first.

    Args:
        rankings: Hits of each query. One ranking stays as it is.

    Example:
        >>> from types import SimpleNamespace as Hit
        >>> [hit.id for hit in fuse([[Hit(id="a"), Hit(id="b")], [Hit(id="b"), Hit(id="c")]])]
        ['b', 'a', 'c']
    """
    shares: dict[str, float] = defaultdict(float)
    first: dict[str, Any] = {}
    for hits in rankings:
        for rank, hit in _ranked(list(hits)):
            shares[hit.id] += 1 / (_RANK_OFFSET + rank)
            first.setdefault(hit.id, hit)
    return sorted(first.values(), key=lambda hit: -shares[hit.id])


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
        return None, f"The picture of {markdown(name)} is not here, only its embedding."
    try:
        alignment = collection.retriever.explain(picture, query)
        drawing = alignment.to_image(panel_width=320, columns=2)  # two fit a phone
    except ValueError as error:
        return None, f"This cannot be explained: {markdown(error)}"
    pairs = zip(alignment.words, alignment.best_score, strict=True)
    return drawing, ", ".join(f"{markdown(word)} {score:.2f}" for word, score in pairs)


def score_table(rows: Sequence[Sequence[Any]]) -> str:
    """Return the scores of all results as a table in Markdown, with what they mean."""
    if not rows:
        return ""
    lines = [f"| {' | '.join(map(markdown, row))} |" for row in rows]
    heads = "| rank | picture | score | whole picture | words and places |\n|---:|---|---:|---:|---:|"
    note = "Larger is nearer; the score mixes the other two. It ranks pictures and is not a probability."
    return "\n".join([heads, *lines, "", note])


def _query_picture(collection: Collection, picture: Any) -> Any:
    if isinstance(picture, str | Path):
        try:
            picture = read_regular_file(picture)
        except OSError as error:
            raise ValueError("The picture is no longer here. Choose it again.") from error
    return collection.decode(picture) if isinstance(picture, bytes) else picture


def _ranked(hits: list[Any]) -> list[tuple[int, Any]]:
    return list(enumerate(hits, start=1))


def _shown(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"


def _nothing(message: str) -> Results:
    return Results(None, [], [], [], message)


__all__ = ["Results", "explain", "fuse", "score_table", "search", "start"]
