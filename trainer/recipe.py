# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Recipes: what to train, as YAML. Every key is checked; nothing in a recipe is ignored."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from .data.columns import nearest

RECIPES = Path(__file__).parent / "recipes"
_SECRETS = ("hub_token", "push_to_hub_token")


@dataclass
class Recipe:
    """One way to train.

    Attributes:
        description: What it is, in a sentence or two.
        vision_model: Hub id or directory of the vision backbone, or weights of the package (`tgdt:scenes-tower`);
            `None` reads region features.
        text_model: Hub id or directory of the text backbone; `None` builds one from `text_config`.
        vision_config: Configuration of a vision backbone that starts from nothing.
        text_config: Configuration of a text backbone that starts from nothing, with a word-level tokenizer.
        text_num_hidden_layers: Layers that are kept of a pretrained text backbone.
        attn_implementation: Attention of transformers for the whole model; its own choice when omitted.
        model: Fields of [`TGDTConfig`].
        warm_start: Whether a new model's projections start at the directions that photos and captions share, see
            [`warm_start`].
        calibrate: Whether the weights of the mixed score are fitted at the end, on a tenth of the training photos, at
            most 200, which are left out of the training, see [`calibrate_scores`].
        image_size: Side of the square that whole pictures are resized to, in pixels; by default what the pretrained
            backbone was made for, 224 for one that starts from nothing. A convolutional backbone takes any.
        training: Fields of [`CMCTrainingArguments`].
        reference_photos: Training photos whose embeddings are kept with the model, for the hubness correction of its
            galleries, see [`HubnessOptions`]; 0 keeps none.
        stages: Stages that run one after the other, each as fields that replace those of `training`.
        dataset: Data set, where the command line names none.
        train_split: Split to train on.
        eval_split: Split to evaluate on.
        protocol: Evaluation protocol.
        restval: Whether Karpathy's `restval` photos belong to the training split.
    """

    description: str = ""
    vision_model: str | None = None
    text_model: str | None = None
    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    text_num_hidden_layers: int | None = None
    attn_implementation: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    warm_start: bool = False
    calibrate: bool = False
    image_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    reference_photos: int = 1000
    stages: list[dict[str, Any]] = field(default_factory=list)
    dataset: str | None = None
    train_split: str = "train"
    eval_split: str = "validation"
    protocol: str = "standard"
    restval: bool = True

    def stage_arguments(self) -> list[dict[str, Any]]:
        """Return the training arguments of each stage, in order.

        Raises:
            ValueError: When one is a token: a recipe is written into `run.json`, which is published.
        """
        stages = [{**self.training, **stage} for stage in self.stages] or [self.training]
        for name in _SECRETS:
            if any(name in stage for stage in stages):
                raise ValueError(
                    f"Expected a recipe without secrets, found training.{name}, which would be published with the "
                    "model. Leave it out and run `hf auth login`, or set HF_TOKEN."
                )
        return stages


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: Name of a recipe of the package, or a YAML file.
        overrides: `key=value` with dotted keys, such as `training.learning_rate=1e-4`; values are YAML.

    Raises:
        ValueError: When the recipe, a key or a value is not known; the message names the nearest one.

    Example:
        >>> load_recipe("flickr8k", ["model.projection_dim=128"]).model["projection_dim"]
        128
    """
    from modeling_tgdt import TGDTConfig  # `tgdt train --help` lists recipes and need not wait for transformers

    from .training_args import CMCTrainingArguments

    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        names = recipe_names()
        raise ValueError(f"No recipe {str(name_or_path)!r}: expected a YAML file or one of {', '.join(names)}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of recipe keys, found {type(content).__name__}.")
    for override in overrides:
        _apply(content, override)
    _check_keys("recipe", content, {item.name for item in fields(Recipe)})
    recipe = Recipe(**_typed("", content, get_type_hints(Recipe)))
    _check_keys("model", recipe.model, {item.name for item in fields(TGDTConfig)})
    recipe.model = _typed("model.", recipe.model, inspect.get_annotations(TGDTConfig, eval_str=True))
    arguments = get_type_hints(CMCTrainingArguments)
    known = {item.name for item in fields(CMCTrainingArguments)}
    for number, stage in enumerate(recipe.stage_arguments()):
        _check_keys(f"stages[{number}]" if recipe.stages else "training", stage, known)
    recipe.training = _typed("training.", recipe.training, arguments)
    recipe.stages = [_typed(f"stages[{n}].", stage, arguments) for n, stage in enumerate(recipe.stages)]
    return recipe


def _apply(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"Expected key=value such as training.learning_rate=1e-4, found {override!r}.")
    try:  # YAML 1.1 reads the strategy "no" as false
        value = text if text in ("no", "yes", "on", "off") else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"Expected a value of YAML in {override!r}, such as 3, text or [a, b].") from error
    *parents, last = dotted.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ValueError(f"{dotted!r} goes into {parent!r}, which is not a mapping.")
    content[last] = value


def _check_keys(where: str, found: dict[str, Any], known: set[str]) -> None:
    for key in found:
        if key not in known:
            raise ValueError(f"Unknown key {key!r} in {where}.{nearest(str(key), sorted(known))}")


def _typed(prefix: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as their fields take them; ValueError names the first one of another type."""
    return {key: _as(value, hints.get(key, Any), f"{prefix}{key}") for key, value in values.items()}


def _as(value: Any, hint: Any, name: str) -> Any:
    """Return a value of YAML as the type of a field.

    YAML 1.1 reads 1e-4 as text. Whole numbers are read as such where the field counts, a word as a list of one.
    """
    from huggingface_hub.dataclasses import type_validator

    kinds = get_args(hint) or (hint,)
    if isinstance(value, str) and {int, float} & {*kinds} and str not in kinds:
        value = _number(value)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        value = int(value)
    if isinstance(value, str) and get_origin(hint) is list:
        value = [value]
    enums: list[Any] = [kind for kind in kinds if isinstance(kind, EnumType)]
    choices = [member.value for enum in enums for member in enum]
    if choices and value is not None and value not in choices:
        raise ValueError(f"Expected {name} to be one of {choices}, found {value!r}.{nearest(str(value), choices)}")
    whole = type(value) is int and float in kinds
    try:
        type_validator(name, float(value) if whole else value, hint)
        fits = not isinstance(value, float) or math.isfinite(value)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        kind = hint.__name__ if isinstance(hint, type) else re.sub(r"\b(\w+\.)+", "", str(hint))
        raise ValueError(f"Expected {name} to be of type {kind}, found {value!r} ({type(value).__name__}).")
    return value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
