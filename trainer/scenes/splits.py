# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The drawn data sets that recipes name: `scenes`, and `scenes_hard` with crowded scenes and a gallery of 1,000."""

from typing import Any

from datasets import concatenate_datasets

from .dataset import make_scenes, make_sized_scenes

# Scenes, seed and distractors of each split.
DRAWN: dict[str, dict[str, tuple[int, int, int]]] = {
    "scenes": {"train": (3000, 0, 1), "validation": (300, 1, 1)},
    "scenes_hard": {"train": (6000, 0, 1), "validation": (1000, 1, 29)},
}
_SIZED = (600, 2)  # scenes and seed of what teaches the size of a third thing
_SMALLEST = 96  # pixels: below, small shapes look alike


def draw_split(name: str, split: str, image_size: int | None = None) -> Any:
    """Draw a split of `scenes` or `scenes_hard`.

    Args:
        name: Which of the two.
        split: `"train"` or `"validation"`.
        image_size: Side of the pictures in pixels, at least 96.
    """
    count, seed, distractors = DRAWN[name][split]
    side = max(_SMALLEST, image_size or 0)
    if name == "scenes_hard":
        return make_scenes(count, seed, image_size=side, captions_per_image=2, distractors=distractors, crowded=True)
    scenes = make_scenes(count, seed, image_size=side, distractors=distractors)
    if split != "train":
        return scenes
    sized, seed = _SIZED
    return concatenate_datasets([scenes, make_sized_scenes(sized, seed, image_size=side)])
