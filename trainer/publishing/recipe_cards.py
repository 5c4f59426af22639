# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Ready cards of the package's recipes, in `hub_cards/models/`.

`python -m trainer.publishing.recipe_cards [RECIPE=RUN_DIR ...]` writes them. A card has results only where a run
recorded them; the record of a given run is kept beside its card, so that the card can be written again without it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hub_cards.cards import model_card, read_record
from hub_cards.privacy import public_command
from trainer.recipe import load_recipe
from trainer.report import write_json

RECIPES = ("f30k", "coco", "flickr8k", "scenes")
FOLDER = Path(str(files("hub_cards"))) / "models"


def recipe_card(recipe: str, run_dir: str | Path | None = None) -> ModelCard:
    """Write the card of a recipe.

    Args:
        recipe: Its name.
        run_dir: Directory with the `run.json` of a run of it, for its results.

    Raises:
        ValueError: When there is no such recipe.
    """
    repo_id = f"your-name/tgdt-{recipe}"
    if run_dir is not None:
        return model_card(public_record(run_dir), repo_id)
    record = {"recipe": asdict(load_recipe(recipe)), "recipe_name": recipe}
    return model_card(record, repo_id)


def public_record(run_dir: str | Path) -> dict[str, Any]:
    """Read `run.json` without the folders of the machine that the run was on.

    Raises:
        ValueError: When there is no `run.json`, or it is damaged.
    """
    record = {key: _without_folders(value) for key, value in read_record(run_dir).items()}
    if not record:
        raise ValueError(f"Expected the directory of a run, found no run.json in {str(run_dir)!r}.")
    return record | {"command": public_command(record.get("command") or "") or None}


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def write_recipe_cards(folder: str | Path = FOLDER, runs: Mapping[str, str | Path] | None = None) -> list[Path]:
    """Write `<recipe>/README.md` for every recipe, and `<recipe>/run.json` for every given run.

    Args:
        folder: Where to.
        runs: Recipe to the directory of its run; by default the record that is kept in `FOLDER`, where there is one.
    """
    paths = [Path(folder, recipe, "README.md") for recipe in RECIPES]
    for recipe, path in zip(RECIPES, paths, strict=True):
        run, kept = (runs or {}).get(recipe), FOLDER / recipe
        if run is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path.parent / "run.json", public_record(run))
        recipe_card(recipe, run or (kept if (kept / "run.json").exists() else None)).save(path)
    return paths


def main(arguments: Sequence[str]) -> None:
    """Write all cards; arguments are `RECIPE=RUN_DIR`.

    Raises:
        ValueError: When an argument names no recipe.
    """
    runs = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(runs) - set(RECIPES))
    if unknown or not all(runs.values()):
        raise ValueError(f"Expected RECIPE=RUN_DIR with a recipe out of {', '.join(RECIPES)}, found {arguments}.")
    write_recipe_cards(runs=runs)


if __name__ == "__main__":
    main(sys.argv[1:])
