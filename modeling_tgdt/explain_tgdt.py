# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Explanations: the similarity of every word with every region of a picture (paper, section III-D)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image

from .drawing.overlay import draw_alignment
from .encoding_tgdt import evaluating
from .image_loading_tgdt import read_picture, rgb_picture
from .modeling_tgdt import TGDTModel, text_word_mask
from .processing_tgdt import TGDTProcessor
from .tokenizing_tgdt import merge_pieces


@dataclass(frozen=True, repr=False)
class Alignment:
    """Which word matches which region.

    Attributes:
        matrix: (W, R) float32 cosines of words and regions.
        words: W words of the text, without special tokens.
        boxes: (R, 4) float32 region boxes xyxy, as shares of the picture's width and height; None when unknown.
        grid: (rows, columns) when the regions are the cells of a grid, patches or cells of a feature map.
        picture: What is drawn on; None when regions came without it.
    """

    matrix: np.ndarray
    words: list[str]
    boxes: np.ndarray | None
    grid: tuple[int, int] | None = None
    picture: Image.Image | None = None

    def __repr__(self) -> str:
        words, regions = self.matrix.shape
        return f"Alignment({words} words x {regions} regions: {' '.join(self.words)[:60]!r})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows; nothing where the regions have no boxes."""
        if self.boxes is None:
            return None
        buffer = BytesIO()
        self.to_image(panel_width=240).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def best_region(self) -> np.ndarray:
        """(W,) number of each word's best region."""
        return self.matrix.argmax(axis=1)

    @property
    def best_score(self) -> np.ndarray:
        """(W,) cosine of each word with its best region."""
        return self.matrix.max(axis=1)

    def to_image(self, panel_width: int = 320, columns: int | None = None) -> Image.Image:
        """Draw the picture, and for each word the picture under a heat map with the best region framed.

        Args:
            panel_width: Width of one panel in pixels.
            columns: Panels per row; a nearly square sheet by default.

        Raises:
            ValueError: When the boxes are unknown.
        """
        if self.boxes is None:
            raise ValueError("Expected regions with boxes, to draw them where they are, found none. Pass their boxes.")
        return draw_alignment(self.picture, self.matrix, self.words, self.boxes, self.grid, panel_width, columns)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write `to_image(**options)` to a file; the suffix names the format."""
        self.to_image(**options).save(path)


def explain(
    model: TGDTModel,
    processor: TGDTProcessor,
    image: Any,
    text: str,
    *,
    picture: Any = None,
    merge: Literal["mean", "max"] = "mean",
) -> Alignment:
    """Compare every word of a text with every region of a picture.

    A word made of several pieces gets the mean of their cosines, as the model's score counts pieces alike, or the
    largest. Words that the model leaves out of its score are left out here.

    Args:
        model: The model.
        processor: Its processor.
        image: Picture (path, bytes, PIL, array, tensor), or `{"features", "boxes", "image_size"}` regions.
        text: The text.
        picture: What to draw regions on; needless for a picture.
        merge: How pieces become words: "mean" or "max".

    Returns:
        The alignment.

    Raises:
        ValueError: When the text has no word, or the picture cannot be read.
        TypeError: When the text is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected one text as a string, found {type(text).__name__}.")
    if merge not in ("mean", "max"):
        raise ValueError(f"merge must be 'mean' or 'max', found {merge!r}.")
    with evaluating(model):
        tokens, words = encoded_words(model, processor, text)
        regions, boxes, grid, shown = picture_regions(model, processor, image)
    if not words:
        raise ValueError(f"Expected at least one word to explain, found the text {text!r}.")
    cosines = (tokens @ regions.T).float().cpu().numpy()
    matrix = merge_pieces(cosines, words, merge)
    canvas = shown if picture is None else rgb_picture(read_picture(picture))
    return Alignment(matrix, [word for word, _ in words], boxes, grid, canvas)


def encoded_words(model: TGDTModel, processor: TGDTProcessor, text: str) -> tuple[Any, list[tuple[str, list[int]]]]:
    """Return the word tokens (T, D) of a text and, per word that the score counts, its text and its pieces' rows."""
    features = model.get_text_features(**processor(text=[text], return_tensors="pt").to(model.device))
    return features.last_hidden_state[0][features.token_mask[0]], scored_words(model, processor, text)


def scored_words(model: Any, processor: TGDTProcessor, text: str) -> list[tuple[str, list[int]]]:
    """Return the words of a text that the score counts; the text is not embedded.

    Args:
        model: The model, whose configuration says what counts as a word.
        processor: Its processor.
        text: The text.

    Returns:
        Per word its text, and the rows of its pieces among the text's word tokens.
    """
    inputs = processor(text=[text], return_tensors="pt")
    mask = text_word_mask(model.config, inputs["attention_mask"], inputs.get("text_token_mask"))[0]
    row_of = {position: row for row, position in enumerate(mask.nonzero()[:, 0].tolist())}
    groups = [(word, [row_of[p] for p in ps if p in row_of]) for word, ps in processor.words(inputs["input_ids"])]
    return [(word, rows) for word, rows in groups if rows]


def picture_regions(model: TGDTModel, processor: TGDTProcessor, image: Any) -> tuple[Any, Any, Any, Any]:
    """Return region embeddings (R, D), boxes (R, 4) or None, the grid or None, and the picture or None."""
    if isinstance(image, Mapping) and "features" in image:
        inputs = processor(regions=image, return_tensors="pt").to(model.device)
        features = model.get_image_features(**inputs)
        boxes = inputs["region_boxes"][0].cpu().numpy() if "region_boxes" in inputs else None
        height, width = image.get("image_size") or (1, 1)
        blank = Image.new("RGB", (640, max(1, round(640 * float(height) / float(width)))), "white")
        return features.last_hidden_state[0], boxes, None, blank
    decoded = read_picture(image)
    shown = rgb_picture(decoded)
    features = model.get_image_features(**processor(images=decoded, return_tensors="pt").to(model.device))
    mask = features.token_mask[0]
    boxes = features.token_boxes[0][mask].float().cpu().numpy()
    rows = len(np.unique(boxes[:, 1]))
    seen = visible_box(processor.image_processor, shown.size)
    return features.last_hidden_state[0][mask], _inside(boxes, seen), (rows, len(boxes) // rows), shown


def visible_box(image_processor: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of a picture that the model sees, xyxy as shares of its width and height.

    Args:
        image_processor: It may keep the aspect ratio and cut the centre out.
        size: (width, height) of the picture.

    Example:
        >>> from types import SimpleNamespace
        >>> crop = SimpleNamespace(do_resize=True, size={"shortest_edge": 8}, do_center_crop=True,
        ...                        crop_size={"height": 8, "width": 8})
        >>> visible_box(crop, (200, 100))
        (0.25, 0.0, 0.75, 1.0)
    """
    width, height = (float(side) for side in size)
    target = dict(image_processor.size or {}) if getattr(image_processor, "do_resize", False) else {}
    if target.get("shortest_edge"):
        scale = target["shortest_edge"] / min(width, height)
        width, height = width * scale, height * scale
    elif target.get("height") and target.get("width"):
        width, height = float(target["width"]), float(target["height"])
    if not getattr(image_processor, "do_center_crop", False):
        return (0.0, 0.0, 1.0, 1.0)
    crop = dict(image_processor.crop_size)
    x, y = crop["width"] / width / 2, crop["height"] / height / 2
    return (0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y)


def _inside(boxes: np.ndarray, seen: tuple[float, float, float, float]) -> np.ndarray:
    start, end = np.array(seen[:2] * 2, np.float32), np.array(seen[2:] * 2, np.float32)
    return start + boxes * (end - start)


__all__ = ["Alignment", "encoded_words", "explain", "picture_regions", "scored_words", "visible_box"]
