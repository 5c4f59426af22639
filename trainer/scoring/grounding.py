# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Do words point at what they name? The best region of every word, against annotated boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_tgdt.encoding_tgdt import evaluating
from modeling_tgdt.explain_tgdt import encoded_words, picture_regions
from modeling_tgdt.tokenizing_tgdt import has_content, merge_pieces

from ..scenes.phrases import scene_phrases

_FIELDS = ("nearest", "nearest_chance", "inside", "inside_chance")
Boxes = NDArray[np.float64]


def evaluate_grounding(model: Any, processor: Any, dataset: Any) -> dict[str, dict[str, float]]:
    """Measure how often the best region of a word lies at the thing that the word names.

    Args:
        model: TGDTModel.
        processor: TGDTProcessor.
        dataset: Photos with `image`, `captions` and annotations: `things`, a list of boxes xyxy in pixels for each
            thing of the photo, and `phrases`, for each caption a list of `start` and `end` (characters), `kind`, and
            `things` (numbers of the things named), as [`load_flickr30k_entities`] returns them; or `regions`, as
            [`make_scenes`] returns them.

    Returns:
        Kind of words to `nearest`: percent of words whose best region's centre is nearer to the centre of a thing that
        the word names than to any other annotated thing; `inside`: percent whose best region's centre is in one of its
        boxes; `nearest_chance` and `inside_chance`: the same of a region picked at random; `words`: their number.
        `"all"` joins the kinds. Words without content ("a", "the", "of") are not counted.

    Raises:
        ValueError: When the data lack annotations, or no word names an annotated thing.

    Example:
        >>> from trainer import evaluate_grounding
        >>> evaluate_grounding(model, processor, make_scenes(100, seed=1))["shape"]["nearest"]  # doctest: +SKIP
    """
    columns = set(dataset.column_names)
    if "image" not in columns or not ({"things", "phrases"} <= columns or "regions" in columns):
        raise ValueError(
            "Expected pictures with annotations: the columns image, captions, and things with phrases, or regions. "
            f"Found {sorted(columns)}."
        )
    rows: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    core = getattr(model, "module", model)
    with evaluating(core):
        for photo in dataset:
            for kind, row in _photo_rows(core, processor, photo):
                rows[kind].append(row)
    if not rows:
        raise ValueError("No word of the captions names an annotated thing.")
    everything = [row for kind in rows.values() for row in kind]
    return {kind: _summary(values) for kind, values in [*sorted(rows.items()), ("all", everything)]}


def _photo_rows(model: Any, processor: Any, photo: Mapping[str, Any]) -> list[tuple[str, NDArray[np.float64]]]:
    """Return for every word of a photo's captions that names a thing its kind and the four values (4,)."""
    things, phrases = _annotations(photo)
    if not any(phrases):
        return []
    regions, boxes, _, picture = picture_regions(model, processor, photo["image"])
    centres = _centres(np.asarray(boxes, np.float64)) * picture.size
    nearest, inside = _nearest(centres, things), _inside(centres, things)
    rows = []
    for caption, named in zip(photo["captions"], phrases, strict=True):
        tokens, words = encoded_words(model, processor, caption)
        cosines = merge_pieces((tokens @ regions.T).float().cpu().numpy(), words)
        spans = word_spans(caption, [word for word, _ in words])
        for span, best in zip(spans, cosines.argmax(axis=1), strict=True):
            if span is None or not has_content(caption[slice(*span)]):
                continue
            for phrase in named:
                if phrase["start"] <= span[0] and span[1] <= phrase["end"]:
                    near: Any = np.stack([nearest == thing for thing in phrase["things"]]).any(axis=0)
                    within: Any = inside[:, phrase["things"]].any(axis=1)
                    rows.append((phrase["kind"], np.array([near[best], near.mean(), within[best], within.mean()])))
    return rows


def word_spans(caption: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Find the words of a tokenizer in the caption that they are of.

    Args:
        caption: The caption.
        words: Its words in order, maybe in lower case.

    Returns:
        Start and end of each in characters; None for a word that is not there, such as an unknown one.

    Example:
        >>> word_spans("A red ball.", ["a", "red", "[UNK]", "."])
        [(0, 1), (2, 5), None, (10, 11)]
    """
    spans: list[tuple[int, int] | None] = []
    text, position = caption.lower(), 0
    for word in words:
        start = text.find(word.lower(), position)
        spans.append(None if start < 0 else (start, start + len(word)))
        position = position if start < 0 else start + len(word)
    return spans


def _annotations(photo: Mapping[str, Any]) -> tuple[list[Boxes], list[list[dict[str, Any]]]]:
    """Return the boxes (n, 4) of each thing of a photo, and the phrases of each caption."""
    if "phrases" in photo:
        return [np.array(boxes, np.float64).reshape(-1, 4) for boxes in photo["things"]], photo["phrases"]
    things = [np.array([region["box"]], np.float64) for region in photo["regions"]]
    return things, [scene_phrases(caption, photo["regions"]) for caption in photo["captions"]]


def _centres(boxes: Boxes) -> Boxes:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _nearest(centres: Boxes, things: Sequence[Boxes]) -> NDArray[np.int64]:
    """Return for each of R points the thing one of whose boxes has the nearest centre, (R,)."""
    distances = [((centres[:, None] - _centres(boxes)) ** 2).sum(-1).min(1) for boxes in things]
    return np.stack(distances).argmin(axis=0)


def _inside(centres: Boxes, things: Sequence[Boxes]) -> NDArray[np.bool_]:
    """Return whether each of R points lies in a box of each thing, (R, things)."""
    x, y = centres[:, :1], centres[:, 1:]
    hits = [((x >= b[:, 0]) & (x <= b[:, 2]) & (y >= b[:, 1]) & (y <= b[:, 3])).any(axis=1) for b in things]
    return np.stack(hits, axis=1)


def _summary(rows: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    means = 100 * np.mean(rows, axis=0)
    return {**dict(zip(_FIELDS, map(float, means), strict=True)), "words": len(rows)}
