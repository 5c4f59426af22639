# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Drawn scenes with captions: an embedded data set whose look-alikes differ in exactly one detail."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from .captions import write_captions
from .drawing import draw_scene
from .layout import (
    SWAPS,
    Scene,
    change_scene,
    crowded_look_alikes,
    sample_crowded_scene,
    sample_scene,
    sample_sized_scene,
)

MOST_CROWDED = 29  # changes of a crowded scene: one of each kind, then further orders of its colours
MAX_IMAGES = 6000  # half of the scenes that captions can tell apart

FEATURES = Features(
    {
        "image": Image(),
        "captions": List(Value("string")),
        "image_id": Value("string"),
        "regions": List({"box": List(Value("float32"), length=4), "label": Value("string")}),
        "group_id": Value("string"),
        "change": Value("string"),
    }
)


def make_scenes(
    num_images: int,
    seed: int = 0,
    *,
    image_size: int = 96,
    captions_per_image: int | tuple[int, int] = (3, 5),
    distractors: int = 1,
    crowded: bool = False,
) -> Dataset:
    """Draw captioned scenes; the same arguments give the same data set everywhere.

    Each base scene is followed by its distractors, in which the colours, the places or the sizes of the two main
    things are swapped; in crowded scenes the colours of all things change places, or the colour or the shape of one is
    replaced. All captions of a group tell the detail that its scenes differ in, so that a caption is true of one image
    only.

    Args:
        num_images: Images in total, base scenes and distractors.
        seed: Seed of everything.
        image_size: Side of the square images, in pixels.
        captions_per_image: Captions of each image, or the smallest and largest number.
        distractors: Distractors per base scene, 0 to 3; in crowded scenes up to 29, fewer where the colours have
            fewer orders.
        crowded: Draw three to five things that share colours and shapes, and name all of them in every caption,
            instead of two or three things that share none: colours and shapes tell only in their combination.

    Returns:
        Data set with `image`, `captions` (list), `image_id`, `regions` (list of `box`, x1, y1, x2, y2 in pixels, and
        `label` such as "small red star"), `group_id` (`image_id` of the base scene) and `change` (`""` for a base
        scene, else one of `CHANGES`).

    Raises:
        ValueError: When a number is out of range.

    Example:
        >>> scenes = make_scenes(4, seed=1)
        >>> scenes[0]["group_id"] == scenes[1]["group_id"], scenes[0]["image"].size
        (True, (96, 96))
    """
    _check(num_images, image_size, distractors, MOST_CROWDED if crowded else len(SWAPS))
    span = (captions_per_image, captions_per_image) if isinstance(captions_per_image, int) else captions_per_image
    group_of = partial(_crowded_group if crowded else _group, distractors)
    return _draw(num_images, seed, image_size, span, group_of, all_things=crowded)


def make_sized_scenes(num_images: int, seed: int = 0, *, image_size: int = 96) -> Dataset:
    """Draw pairs of scenes of three things in which the third is large in one and small in the other.

    In plain scenes a third thing is always small, and so is one of the first two: nothing asks of which thing a
    caption says "small". Here that alone tells the scenes of a pair apart.

    Args:
        num_images: Images in total.
        seed: Seed of everything.
        image_size: Side of the square images, in pixels.

    Returns:
        Data set as [`make_scenes`] returns it; `change` is `""` or `"size"`.
    """
    _check(num_images, image_size, 1, 1)
    return _draw(num_images, seed, image_size, (3, 5), _sized_group, all_things=True, prefix="sized")


def _draw(
    num_images: int,
    seed: int,
    image_size: int,
    span: tuple[int, int],
    group_of: Callable[[Random], list[tuple[str, Scene]]],
    *,
    all_things: bool,
    prefix: str = "scene",
) -> Dataset:
    """Draw groups of scenes, no two of which a caption of the first two things fits; `all_things` names the others."""
    random = Random(seed)
    rows: list[dict[str, Any]] = []
    told: set[tuple[object, ...]] = set()
    while len(rows) < num_images:
        group = group_of(random)
        signatures = {scene.signature for _, scene in group}
        if told & signatures:
            continue
        told |= signatures
        group_id = f"{prefix}-{len(rows):05d}"
        with_sizes = any(change in ("sizes", "size") for change, _ in group)
        for change, scene in group:
            wording = {"with_sizes": with_sizes, "with_others": all_things}
            captions = write_captions(scene, random.randint(*span), random, **wording)
            rows.append(_row(scene, f"{prefix}-{len(rows):05d}", group_id, change, captions, image_size))
    return Dataset.from_list(rows[:num_images], features=FEATURES)


def _sized_group(random: Random) -> list[tuple[str, Scene]]:
    base = sample_sized_scene(random)
    return [("", base), ("size", change_scene(base, "size"))]


def _group(distractors: int, random: Random) -> list[tuple[str, Scene]]:
    changes = random.sample(SWAPS, distractors)  # drawn before the scene: the order of draws is part of the data
    base = sample_scene(random)
    return [("", base), *((change, change_scene(base, change)) for change in changes)]


def _crowded_group(distractors: int, random: Random) -> list[tuple[str, Scene]]:
    base = sample_crowded_scene(random)
    return [("", base), *crowded_look_alikes(base, distractors, random)]


def _row(
    scene: Scene, image_id: str, group_id: str, change: str, captions: list[str], image_size: int
) -> dict[str, Any]:
    regions = [
        {"box": thing.box(image_size), "label": f"{thing.size} {thing.colour} {thing.shape}"} for thing in scene.things
    ]
    return {
        "image": draw_scene(scene, image_size),
        "captions": captions,
        "image_id": image_id,
        "regions": regions,
        "group_id": group_id,
        "change": change,
    }


def _check(num_images: int, image_size: int, distractors: int, most: int) -> None:
    if not 1 <= num_images <= MAX_IMAGES:
        raise ValueError(f"Expected num_images in 1..{MAX_IMAGES}, found {num_images}.")
    if not 16 <= image_size <= 1024:
        raise ValueError(f"Expected image_size in 16..1024 pixels, found {image_size}.")
    if not 0 <= distractors <= most:
        raise ValueError(f"Expected distractors in 0..{most} per scene, found {distractors}.")
