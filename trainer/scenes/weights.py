# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Weights that come with the package: a vision tower and a model for drawn scenes, and the command that makes them."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from modeling_tgdt import TGDTModel, TGDTProcessor

from .dataset import make_scenes
from .tower import pretrain_tower

FOLDER = Path(__file__).parent / "weights"
PREFIX = "tgdt:"
TOWER, MODEL = f"{PREFIX}scenes-tower", f"{PREFIX}scenes-model"
# Cells of 8 x 8 pixels that see a part of a picture of 64 x 64.
_TOWER = {"model_type": "resnet", "embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 1],
          "layer_type": "basic", "num_channels": 3}  # fmt: skip
_IMAGE_SIZE, _STEPS, _SCENES = 64, 300, 750


def shipped(name_or_path: str) -> str:
    """Return the directory of weights of the package, and any other name as it is.

    Args:
        name_or_path: Such as `"tgdt:scenes-tower"`, a Hub id or a directory.

    Raises:
        ValueError: When the package has no such weights.

    Example:
        >>> shipped("org/name"), Path(shipped("tgdt:scenes-tower")).name
        ('org/name', 'scenes-tower')
    """
    if not name_or_path.startswith(PREFIX):
        return name_or_path
    path = FOLDER / name_or_path.removeprefix(PREFIX)
    if not path.is_dir():
        names = ", ".join(sorted(f"{PREFIX}{found.name}" for found in FOLDER.iterdir() if found.is_dir()))
        raise ValueError(f"The package has no weights {name_or_path!r}: expected one of {names}.")
    return str(path)


def make_tower(folder: Path, seed: int) -> None:
    """Pre-train the tower on labels of things in plain and crowded scenes and save it in half precision."""
    scenes = datasets.concatenate_datasets([make_scenes(_SCENES, 77), make_scenes(_SCENES, 78, crowded=True)])
    tower, right = pretrain_tower(_TOWER, scenes, image_size=_IMAGE_SIZE, steps=_STEPS, seed=seed)
    tower.half().save_pretrained(folder / "scenes-tower")
    _record(folder / "scenes-tower", seed, {"labels_right": right})


def make_model(folder: Path, seed: int) -> None:
    """Train the recipe `scenes` from the shipped tower and save the model in half precision."""
    from ..recipe import load_recipe
    from ..run import run_recipe

    with tempfile.TemporaryDirectory() as output:
        run = run_recipe(load_recipe("scenes"), output, seed=seed)
    run.model.half().save_pretrained(folder / "scenes-model")
    run.processor.save_pretrained(folder / "scenes-model")
    _record(folder / "scenes-model", seed, {"results": run.results, "seconds": run.seconds})
