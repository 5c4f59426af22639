# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Heat maps of words over a picture, drawn with Pillow."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..tokenizing_tgdt import has_content
from .fonts import readable

_STOPS = np.array([0.0, 0.35, 0.65, 1.0])
_COLOURS = np.array([[30, 20, 80], [170, 30, 110], [245, 110, 40], [255, 235, 120]], dtype=np.float64)
_STRENGTH = 0.65  # opacity of the hottest place
_PALE = 0.65  # share of white in the panel of a word without content
_MARGIN, _CAPTION, _FONT_SIZE = 6, 24, 15
_TEXT, _FRAME = (20, 20, 20), (255, 255, 255)


def draw_alignment(
    picture: Image.Image | None,
    matrix: np.ndarray,
    words: list[str],
    boxes: np.ndarray,
    grid: tuple[int, int] | None,
    panel_width: int,
    columns: int | None,
) -> Image.Image:
    """Draw one panel for the picture and one for each word.

    One scale of colours holds for the whole caption, from the lowest to the highest cosine of its words, so that a
    word that matches nothing stays cold. The number beside a word is the cosine of its most similar region, which is
    framed. Panels of words without content ("a", "the", "of") are pale and without a frame.

    Args:
        picture: RGB picture, or None for a white square.
        matrix: (W, R) cosines.
        words: W words.
        boxes: (R, 4) xyxy as shares of the picture.
        grid: (rows, columns) when the boxes are the cells of a grid.
        panel_width: Pixels.
        columns: Panels per row, or None for a nearly square sheet.

    Returns:
        RGB sheet.
    """
    base = Image.new("RGB", (panel_width, panel_width), "white") if picture is None else picture
    height = max(1, round(panel_width * base.height / base.width))
    base = base.resize((panel_width, height), Image.Resampling.LANCZOS)
    panels = [(base, "")]
    told = matrix[[has_content(word) for word in words]]
    span = (told if len(told) else matrix).min(), (told if len(told) else matrix).max()
    for word, row in zip(words, matrix, strict=True):
        panel = colour_over(base, heat_map(row, boxes, grid, base.size, span))
        if has_content(word):
            _frame(panel, boxes[int(row.argmax())])
        else:
            panel = Image.blend(panel, Image.new("RGB", panel.size, "white"), _PALE)
        panels.append((panel, f"{word}  {row.max():.2f}"))
    columns = columns or max(1, round(math.sqrt(len(panels) * (height + _CAPTION) / panel_width)))
    return contact_sheet(panels, min(columns, len(panels)))


def heat_map(
    values: np.ndarray,
    boxes: np.ndarray,
    grid: tuple[int, int] | None,
    size: tuple[int, int],
    span: tuple[float, float] | None = None,
) -> np.ndarray:
    """Spread the values of R regions over a picture.

    Args:
        values: (R,) similarities.
        boxes: (R, 4) xyxy as shares of the picture.
        grid: Cells of a grid are smoothed into one another; other boxes are filled, the larger value on top.
        size: (width, height) in pixels.
        span: Values that become 0 and 1; the least and the largest of `values` when omitted.

    Returns:
        (height, width) float32 in [0, 1], 0 outside all regions.
    """
    low, high = (values.min(), values.max()) if span is None else span
    scaled = ((values - low) / (high - low) if high > low else np.ones_like(values)).clip(0, 1).astype(np.float32)
    heat = np.zeros((size[1], size[0]), dtype=np.float32)
    if grid is not None:
        start, end = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        x1, y1, x2, y2 = _pixels(np.concatenate([start, end]), size)
        cells = Image.fromarray(scaled.reshape(grid)).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, size[0]), min(y2, size[1])
        heat[top:bottom, left:right] = np.asarray(cells)[top - y1 : bottom - y1, left - x1 : right - x1]
        return heat.clip(0, 1)
    for region in np.argsort(scaled, kind="stable"):
        x1, y1, x2, y2 = (max(0, side) for side in _pixels(boxes[region], size))
        heat[y1:y2, x1:x2] = np.maximum(heat[y1:y2, x1:x2], scaled[region])
    return heat


def colour_over(base: Image.Image, heat: np.ndarray) -> Image.Image:
    """Lay a heat map (height, width) in [0, 1] over a picture, which loses its colours where it is cold."""
    grey = np.asarray(ImageOps.grayscale(base).convert("RGB"), dtype=np.float64)
    colours = np.stack([np.interp(heat, _STOPS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    alpha = (0.25 + (_STRENGTH - 0.25) * heat)[..., None]
    return Image.fromarray((grey * (1 - alpha) + colours * alpha).round().astype(np.uint8))


def contact_sheet(panels: list[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Put captioned pictures on a white sheet.

    Args:
        panels: Pictures of at most one common size, with captions.
        columns: Panels per row.
    """
    width = max(panel.width for panel, _ in panels)
    height = max(panel.height for panel, _ in panels) + _CAPTION
    rows = math.ceil(len(panels) / columns)
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (panel, caption) in enumerate(panels):
        x = _MARGIN + number % columns * (width + _MARGIN)
        y = _MARGIN + number // columns * (height + _MARGIN)
        sheet.paste(panel, (x, y + _CAPTION))
        label, font = readable(caption, _FONT_SIZE)
        draw.text((x + 2, y + 2), fit_text(label, font, width - 4), fill=_TEXT, font=font)
    return sheet


def fit_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text with `...` until it is at most `width` pixels wide."""
    text = text[:500]  # an id may be as long as its writer liked
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _frame(panel: Image.Image, box: np.ndarray) -> None:
    x1, y1, x2, y2 = _pixels(box, panel.size)
    corners = (max(x1, 0), max(y1, 0), min(x2, panel.width) - 1, min(y2, panel.height) - 1)
    if corners[0] < corners[2] and corners[1] < corners[3]:
        ImageDraw.Draw(panel).rectangle(corners, outline=_FRAME, width=2)


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    scaled = np.asarray(box, np.float64) * (size * 2)
    x1, y1 = (int(side) for side in np.floor(scaled[:2]))
    x2, y2 = (int(side) for side in np.ceil(scaled[2:]))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


__all__ = ["colour_over", "contact_sheet", "draw_alignment", "fit_text", "heat_map"]
