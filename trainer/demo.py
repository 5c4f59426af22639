# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The main job from end to end on drawn scenes: train, evaluate, search, explain, draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from modeling_tgdt import Hit, TGDTRetriever

from .recipe import load_recipe
from .run import Run, load_split, run_recipe

_THUMBNAIL, _MARGIN, _TEXT = 150, 12, 22
_RIGHT, _OTHER = (34, 150, 80), (200, 200, 205)


@dataclass
class Search:
    """One search of the demo.

    Attributes:
        query: Caption that was searched for.
        image_id: The scene that it was written for.
        hits: What two-stage search returned, best first.
    """

    query: str
    image_id: str
    hits: list[Hit]


@dataclass
class Demo:
    """What the demo made.

    Attributes:
        run: The training run.
        searches: A few searches.
        picture: Picture of queries, ranked results and a word-to-region map.
    """

    run: Run
    searches: list[Search]
    picture: Path


def run_demo(output_dir: str | Path, *, seed: int = 0, overrides: tuple[str, ...] = ()) -> Demo:
    """Train on drawn scenes, put the evaluation scenes into a gallery, search it and draw what came out.

    Args:
        output_dir: Where model, gallery and picture are written.
        seed: Seed of the training.
        overrides: Changes of the recipe `scenes`, as for [`load_recipe`].
    """
    recipe = load_recipe("scenes", overrides)
    run = run_recipe(recipe, output_dir, seed=seed, command="tgdt demo")
    scenes = load_split(recipe, recipe.eval_split, None, None, None)
    retriever = TGDTRetriever(run.model, run.processor)
    retriever.create_index(run.output_dir / "index", kind="image")
    retriever.add_images(scenes["image"], ids=list(scenes["image_id"]))
    searches = _search(retriever, scenes)
    return Demo(run, searches, draw_demo(retriever, scenes, searches, run.output_dir / "demo.png"))


def _search(retriever: TGDTRetriever, scenes: Any, count: int = 4) -> list[Search]:
    """Search for scenes spread over the gallery, each with a look-alike beside it."""
    step = len(scenes) // count // 2 * 2
    chosen = [scenes[position] for position in range(0, step * count, step)]
    found = retriever.search([scene["captions"][0] for scene in chosen], top_k=5)
    pairs = zip(chosen, found, strict=True)
    return [Search(scene["captions"][0], scene["image_id"], hits) for scene, hits in pairs]


def draw_demo(retriever: TGDTRetriever, scenes: Any, searches: list[Search], path: Path) -> Path:
    """Draw each query with its ranked results, and below them which word of the first query matched where.

    Args:
        retriever: Explains the first search.
        scenes: Gallery, with `image` and `image_id`.
        searches: What to show.
        path: PNG to write.
    """
    pictures = dict(zip(scenes["image_id"], scenes["image"], strict=True))
    alignment = retriever.explain(pictures[searches[0].image_id], searches[0].query)
    rows = [_draw_row(search, pictures) for search in searches]
    width = rows[0].width
    heat = alignment.to_image(panel_width=_THUMBNAIL, columns=5)
    rows += [_title(f"Which word matched where: {searches[0].query}", width), heat]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path)
    return path


def _draw_row(search: Search, pictures: dict[str, Image.Image]) -> Image.Image:
    width = len(search.hits) * (_THUMBNAIL + _MARGIN) + _MARGIN
    row = Image.new("RGB", (width, _THUMBNAIL + 2 * _TEXT + 2 * _MARGIN), "white")
    row.paste(_title(search.query, width), (0, 0))
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    for rank, hit in enumerate(search.hits):
        left, top = _MARGIN + rank * (_THUMBNAIL + _MARGIN), _TEXT + _MARGIN
        row.paste(pictures[hit.id].resize((_THUMBNAIL, _THUMBNAIL)), (left, top))
        colour = _RIGHT if hit.id == search.image_id else _OTHER
        draw.rectangle((left - 3, top - 3, left + _THUMBNAIL + 2, top + _THUMBNAIL + 2), outline=colour, width=3)
        scores = f"{rank + 1}.  {hit.score:.2f} = {hit.global_score:.2f} + {hit.local_score:.2f}"
        draw.text((left, top + _THUMBNAIL + 4), scores, fill="black", font=font)
    return row


def _title(text: str, width: int) -> Image.Image:
    title = Image.new("RGB", (width, _TEXT), "white")
    ImageDraw.Draw(title).text((_MARGIN, 4), text, fill="black", font=ImageFont.load_default(15))
    return title
