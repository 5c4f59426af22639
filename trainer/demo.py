# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The main job from end to end on drawn scenes: train on, evaluate, search, explain, draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from modeling_tgdt import Hit, TGDTRetriever

from .recipe import load_recipe
from .report import write_json
from .run import Run, load_split, run_recipe
from .scenes.weights import MODEL
from .scoring.grounding import evaluate_grounding
from .scoring.look_alikes import look_alike_accuracy

_THUMBNAIL, _MARGIN, _TEXT = 150, 12, 22
_RIGHT, _LOOK_ALIKE, _OTHER = (34, 150, 80), (226, 120, 20), (200, 200, 205)
# The shipped model has the whole training of the recipe behind it; this is what five minutes have room for.
_TRAIN_ON = ("training.max_steps=60", "training.learning_rate=3e-4")


@dataclass
class Search:
    """One search of the demo.

    Attributes:
        query: Caption that was searched for.
        image_id: The scene that it was written for.
        look_alike: The scene that differs from it in one detail.
        change: That detail.
        hits: What two-stage search returned, best first.
    """

    query: str
    image_id: str
    look_alike: str
    change: str
    hits: list[Hit]

    @property
    def rank(self) -> int | None:
        """Place of the scene among the hits, from 1; `None` when it is not among them."""
        return next((rank + 1 for rank, hit in enumerate(self.hits) if hit.id == self.image_id), None)


@dataclass
class Demo:
    """What the demo made.

    Attributes:
        run: The training run.
        look_alikes: Share of look-alikes told apart, see [`look_alike_accuracy`].
        grounding: Where words point, see [`evaluate_grounding`].
        searches: A few searches.
        picture: Picture of queries, ranked results and a word-to-region map.
    """

    run: Run
    look_alikes: dict[str, dict[str, float]]
    grounding: dict[str, dict[str, float]]
    searches: list[Search]
    picture: Path


def run_demo(output_dir: str | Path, *, seed: int = 0, overrides: tuple[str, ...] = ()) -> Demo:
    """Train the shipped model on, put the evaluation scenes into a gallery, search it and draw what came out.

    Args:
        output_dir: Where model, gallery, measurements and picture are written.
        seed: Seed of the training.
        overrides: Changes of the recipe `scenes`, as for [`load_recipe`].
    """
    recipe = load_recipe("scenes", (*_TRAIN_ON, *overrides))
    run = run_recipe(recipe, output_dir, model=MODEL, seed=seed, command="tgdt demo")
    scenes = load_split(recipe, recipe.eval_split, None, None, None)
    look_alikes = look_alike_accuracy(run.model, run.processor, scenes)
    grounding = evaluate_grounding(run.model, run.processor, scenes)
    write_json(run.output_dir / "details.json", {"look_alikes": look_alikes, "grounding": grounding})
    retriever = TGDTRetriever(run.model, run.processor)
    retriever.create_index(run.output_dir / "index", kind="image")
    retriever.add_images(scenes["image"], ids=list(scenes["image_id"]))
    searches = _search(retriever, scenes)
    picture = draw_demo(retriever, scenes, searches, run.output_dir / "demo.png")
    return Demo(run, look_alikes, grounding, searches, picture)


def _search(retriever: TGDTRetriever, scenes: Any) -> list[Search]:
    """Search for four scenes spread over the gallery, each followed there by its look-alike."""
    step = len(scenes) // 4 // 2 * 2
    pairs = [(scenes[position], scenes[position + 1]) for position in range(0, step * 4, step)]
    results = retriever.search([scene["captions"][0] for scene, _ in pairs], top_k=5)
    return [
        Search(scene["captions"][0], scene["image_id"], other["image_id"], other["change"], hits)
        for (scene, other), hits in zip(pairs, results, strict=True)
    ]


def draw_demo(retriever: TGDTRetriever, scenes: Any, searches: list[Search], path: Path) -> Path:
    """Draw each query with its ranked results, and below them which word of the first query matched where.

    The scene that a query was written for has a green frame, its look-alike an orange one.

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
    row.paste(_title(f"{search.query}  (look-alike: {search.change} changed)", width), (0, 0))
    frames = {search.image_id: _RIGHT, search.look_alike: _LOOK_ALIKE}
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    for rank, hit in enumerate(search.hits):
        left, top = _MARGIN + rank * (_THUMBNAIL + _MARGIN), _TEXT + _MARGIN
        row.paste(pictures[hit.id].resize((_THUMBNAIL, _THUMBNAIL)), (left, top))
        colour = frames.get(hit.id, _OTHER)
        draw.rectangle((left - 3, top - 3, left + _THUMBNAIL + 2, top + _THUMBNAIL + 2), outline=colour, width=3)
        scores = f"{rank + 1}.  {hit.score:.2f} = {hit.global_score:.2f} + {hit.local_score:.2f}"
        draw.text((left, top + _THUMBNAIL + 4), scores, fill="black", font=font)
    return row


def _title(text: str, width: int) -> Image.Image:
    title = Image.new("RGB", (width, _TEXT), "white")
    ImageDraw.Draw(title).text((_MARGIN, 4), text, fill="black", font=ImageFont.load_default(15))
    return title
