# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Draw the figures of the documentation: `python docs/make_figures.py` writes architecture.png and layers.png."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]  # left, top, width, height
Boxes = dict[str, tuple[Box, tuple[int, int, int], str]]
Arrows = tuple[tuple[str, str], ...]
_SCALE = 2  # drawn large and shrunk, for smooth edges
_IMAGE, _TEXT, _STAGE, _INK = (219, 234, 254), (254, 226, 211), (220, 245, 225), (40, 44, 52)
_FLOW: Boxes = {
    "pixels": ((20, 40, 160, 62), _IMAGE, "pixels -> HF vision backbone"),
    "regions": ((20, 122, 160, 62), _IMAGE, "detector regions with boxes"),
    "words": ((20, 236, 160, 62), _TEXT, "word pieces -> HF text backbone"),
    "boxes": ((220, 81, 130, 62), _IMAGE, "regions with boxes"),
    "image local": ((390, 81, 130, 62), _IMAGE, "local encoder"),
    "text local": ((390, 236, 130, 62), _TEXT, "local encoder"),
    "image tokens": ((570, 20, 170, 50), _IMAGE, "region embeddings (R, D)"),
    "image global": ((570, 100, 170, 62), _IMAGE, "global encoder: embedding (D)"),
    "text global": ((570, 200, 170, 62), _TEXT, "global encoder: embedding (D)"),
    "text tokens": ((570, 290, 170, 50), _TEXT, "word embeddings (W, D)"),
    "one": ((800, 150, 170, 62), _STAGE, "stage one: dot product, whole gallery"),
    "two": ((1020, 150, 170, 62), _STAGE, "stage two: best region per word, shortlist"),
}
_FLOW_ARROWS: Arrows = (
    ("pixels", "boxes"),
    ("regions", "boxes"),
    ("boxes", "image local"),
    ("words", "text local"),
    ("image local", "image tokens"),
    ("image local", "image global"),
    ("text local", "text global"),
    ("text local", "text tokens"),
    ("image global", "one"),
    ("text global", "one"),
    ("one", "two"),
    ("image tokens", "two"),
    ("text tokens", "two"),
)
_LAYERS: Boxes = {
    "verbs": ((20, 75, 110, 80), _TEXT, "trainer: commands/ one verb each"),
    "trainer": ((160, 75, 110, 80), _TEXT, "trainer: train, evaluate, load data"),
    "rooms": ((300, 65, 130, 100), _TEXT, "training/ data/ scoring/ scenes/ serving/ publishing/"),
    "cards": ((460, 75, 100, 80), _TEXT, "hub_cards: cards, metric, Space"),
    "retrieval": ((590, 75, 120, 80), _STAGE, "TGDTRetriever, explain"),
    "retriever": ((740, 75, 110, 80), _STAGE, "retriever/ drawing/ runtimes/"),
    "copied": ((880, 20, 150, 80), _IMAGE, "model, processor, pipeline: flat, the Hub copies them"),
    "index": ((880, 130, 150, 62), _STAGE, "TGDTIndex"),
    "gallery": ((1060, 130, 80, 62), _STAGE, "gallery/"),
    "kernels": ((1170, 130, 80, 62), _STAGE, "kernels/"),
}
_LAYERS_ARROWS: Arrows = (
    ("verbs", "trainer"),
    ("trainer", "rooms"),
    ("rooms", "cards"),
    ("cards", "retrieval"),
    ("retrieval", "retriever"),
    ("retriever", "copied"),
    ("retriever", "index"),
    ("index", "gallery"),
    ("gallery", "kernels"),
)


def draw_figure(path: Path, boxes: Boxes, arrows: Arrows, size: tuple[int, int]) -> None:
    """Draw boxes and the arrows between them on a sheet of (width, height) pixels."""
    image = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    for source, target in arrows:
        _arrow(draw, boxes[source][0], boxes[target][0])
    for (left, top, width, height), colour, label in boxes.values():
        corners = [value * _SCALE for value in (left, top, left + width, top + height)]
        draw.rounded_rectangle(corners, 8 * _SCALE, colour, _INK, _SCALE)
        text = "\n".join(textwrap.wrap(label, width // 7))
        centre = ((left + width / 2) * _SCALE, (top + height / 2) * _SCALE)
        draw.multiline_text(centre, text, _INK, ImageFont.load_default(13 * _SCALE), "mm", align="center")
    image.resize(size, Image.Resampling.LANCZOS).save(path)


def _arrow(draw: ImageDraw.ImageDraw, source: Box, target: Box) -> None:
    """Draw from the right edge of a box to the left edge of another, or to its nearest horizontal edge."""
    start = (source[0] + source[2], source[1] + source[3] // 2)
    above, below = start[1] < target[1] - 40, start[1] > target[1] + target[3] + 40
    far = target[0] - start[0] > 200
    if far and (above or below):
        x, y = target[0] + target[2] // 2, target[1] if above else target[1] + target[3]
        points, head = (
            [start, (x, start[1]), (x, y)],
            ((x - 5, y - (9 if above else -9)), (x + 5, y - (9 if above else -9))),
        )
    else:
        x, y = target[0], target[1] + target[3] // 2
        middle = (start[0] + x) // 2
        points, head = [start, (middle, start[1]), (middle, y), (x, y)], ((x - 9, y - 5), (x - 9, y + 5))
    draw.line([(a * _SCALE, b * _SCALE) for a, b in points], _INK, _SCALE)
    draw.polygon([(a * _SCALE, b * _SCALE) for a, b in (points[-1], *head)], _INK)


if __name__ == "__main__":
    draw_figure(Path(__file__).with_name("architecture.png"), _FLOW, _FLOW_ARROWS, (1210, 360))
    draw_figure(Path(__file__).with_name("layers.png"), _LAYERS, _LAYERS_ARROWS, (1270, 215))
