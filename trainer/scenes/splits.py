# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The drawn data sets that recipes name, each with its splits."""

from typing import Any

from datasets import concatenate_datasets

from .dataset import make_scenes, make_sized_scenes

_PLAIN = {"train": (3000, 0, 1), "validation": (300, 1, 1)}
# Scenes, seed and distractors of each split. Plain ones; those and pairs that differ in the size of a third thing;
# crowded ones with a gallery of 1,000.
DRAWN: dict[str, dict[str, tuple[int, int, int]]] = {
    "scenes": _PLAIN,
    "scenes_sized": _PLAIN,
    "scenes_hard": {"train": (6000, 0, 1), "validation": (1000, 1, 29)},
}
_SIZED = (600, 2)  # scenes and seed of the pairs
_SMALLEST = 96  # pixels: below, small shapes look alike


def draw_split(name: str, split: str, image_size: int | None = None) -> Any:
    """Draw a split of one of them.

    Args:
        name: Which, out of `DRAWN`.
        split: `"train"` or `"validation"`.
        image_size: Side of the pictures in pixels, at least 96.
    """
    count, seed, distractors = DRAWN[name][split]
    side = max(_SMALLEST, image_size or 0)
    if name == "scenes_hard":
        return make_scenes(count, seed, image_size=side, captions_per_image=2, distractors=distractors, crowded=True)
    scenes = make_scenes(count, seed, image_size=side, distractors=distractors)
    if name == "scenes" or split == "validation":
        return scenes
    pairs, seed = _SIZED
    return concatenate_datasets([scenes, make_sized_scenes(pairs, seed, image_size=side)])
