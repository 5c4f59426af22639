# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Ready cards of the package's recipes, in `hub_cards/models/`.

`python -m hub_cards.recipe_cards [RECIPE=RUN_DIR ...]` writes them. A card has results only where
the directory of a run is given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import ModelCard

from trainer.recipe import load_recipe

from .cards import model_card

RECIPES = ("f30k", "coco", "flickr8k", "scenes")
FOLDER = Path(__file__).parent / "models"


def recipe_card(recipe: str, run_dir: str | Path | None = None) -> ModelCard:
    """Write the card of a recipe.

    Args:
        recipe: Its name.
        run_dir: Directory of a run of it, for its results.

    Raises:
        ValueError: When there is no such recipe.
    """
    repo_id = f"your-name/tgdt-{recipe}"
    if run_dir is not None:
        return model_card(run_dir, repo_id, gallery=False)
    record = {"recipe": asdict(load_recipe(recipe)), "recipe_name": recipe}
    return model_card(record, repo_id)


def write_recipe_cards(folder: str | Path = FOLDER, runs: Mapping[str, str | Path] | None = None) -> list[Path]:
    """Write `<recipe>/README.md` for every recipe.

    Args:
        folder: Where to.
        runs: Recipe to the directory of its run.
    """
    paths = [Path(folder, recipe, "README.md") for recipe in RECIPES]
    for recipe, path in zip(RECIPES, paths, strict=True):
        recipe_card(recipe, (runs or {}).get(recipe)).save(path)
    return paths


def main(arguments: Sequence[str]) -> None:
    """Write all cards; arguments are `RECIPE=RUN_DIR`.

    Raises:
        ValueError: When an argument names no recipe.
    """
    runs = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(runs) - set(RECIPES))
    if unknown or not all(runs.values()):
        raise ValueError(f"expected RECIPE=RUN_DIR with a recipe out of {', '.join(RECIPES)}, found {arguments}.")
    write_recipe_cards(runs=runs)


if __name__ == "__main__":
    main(sys.argv[1:])
