# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Weights for drawn scenes that come with the package, and the command that makes them.

`python -m trainer.scenes.weights tower` and then `python -m trainer.scenes.weights model` write the folder `weights`
anew; `record.json` beside each tells command, seed, versions and results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers

from .dataset import make_scenes
from .tower import pretrain_tower

if TYPE_CHECKING:
    from ..run import Run

FOLDER = Path(__file__).parent / "weights"
PREFIX = "tgdt:"
# How the model is trained on: as before, then with scenes in which it matters of which thing "small" is said.
_LONGER = ("training.max_steps=1200", "training.learning_rate=1.0e-3")
_SIZES = ("dataset=scenes_sized", "training.max_steps=300", "training.learning_rate=5.0e-4")
TOWER, MODEL = f"{PREFIX}scenes-tower", f"{PREFIX}scenes-model"
# Each of its cells, 8 x 8 pixels, sees a part of the picture.
_CONFIG = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [64, 128],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_channels": 3,
}


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
        raise ValueError(f"The package has no weights {name_or_path!r}: expected {TOWER!r} or {MODEL!r}.")
    return str(path)


def made_by(name: str) -> str:
    """Return the command, or the commands one after the other, that made weights of the package.

    Args:
        name: Such as `"tgdt:scenes-model"`.
    """
    return "\n  ".join(json.loads((Path(shipped(name)) / "record.json").read_text(encoding="utf-8"))["commands"])


def make_tower(folder: Path, seed: int = 0, *, scenes: int = 750, steps: int = 300) -> None:
    """Pre-train the tower on plain and crowded scenes, and save it in half precision.

    Args:
        folder: Where `scenes-tower` is written.
        seed: Seed of weights and order.
        scenes: Scenes of either kind.
        steps: Optimizer steps.
    """
    photos = datasets.concatenate_datasets([make_scenes(scenes, 77), make_scenes(scenes, 78, crowded=True)])
    tower, right = pretrain_tower(_CONFIG, photos, image_size=96, steps=steps, seed=seed)
    tower.half().save_pretrained(folder / "scenes-tower")
    _record(folder / "scenes-tower", "tower", seed, {"steps": steps, "labels_right": right})


def make_model(folder: Path, seed: int = 0) -> None:
    """Train the recipe `scenes` from the tower, then train on from its result, and save in half precision.

    Args:
        folder: Where `scenes-model` is written.
        seed: Seed of the first training; each that follows has the next.
    """
    runs = [_train_model(folder, seed, (), None)]
    for number, changes in enumerate((_LONGER, _SIZES), 1):
        runs.append(_train_model(folder, seed + number, changes, str(folder / "scenes-model")))
    reached = [{mode: metrics["rsum"] for mode, metrics in run.results.items()} for run in runs]
    _record(folder / "scenes-model", "model", seed, {"seconds": [run.seconds for run in runs], "rsum": reached})


def _train_model(folder: Path, seed: int, overrides: tuple[str, ...], model: str | None) -> Run:
    from ..recipe import load_recipe
    from ..run import run_recipe

    with tempfile.TemporaryDirectory() as output:
        run = run_recipe(load_recipe("scenes", overrides), output, model=model, seed=seed)
    run.model.half().save_pretrained(folder / "scenes-model")
    run.processor.save_pretrained(folder / "scenes-model")
    for code in (folder / "scenes-model").glob("*.py"):
        code.unlink()  # the package that has these weights has the code
    return run


def _record(folder: Path, what: str, seed: int, content: dict[str, Any]) -> None:
    from ..report import write_json

    commands = [f"python -m trainer.scenes.weights {what} --seed {seed}"]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    write_json(folder / "record.json", {"commands": commands, "seed": seed, "versions": versions, **content})


def main() -> None:
    """Make the tower or the model."""
    parser = argparse.ArgumentParser(prog="python -m trainer.scenes.weights", description=__doc__)
    parser.add_argument("what", choices=("tower", "model"))
    parser.add_argument("--output", type=Path, default=FOLDER, help="default: the folder of the package")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.what == "tower":
        make_tower(args.output, args.seed)
    else:
        make_model(args.output, args.seed)


if __name__ == "__main__":
    main()
