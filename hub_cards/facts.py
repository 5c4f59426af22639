# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a model's configuration and a run's record say, as lines of a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeling_tgdt.retriever.shown import code, markdown

from .sources import is_hub_id

_TRAINING = {
    "train_stage": "stage",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch size",
    "learning_rate": "learning rate",
    "text_learning_rate": "learning rate of the text backbone",
    "vision_learning_rate": "learning rate of the vision backbone",
    "freeze": "frozen",
}
_ENCODERS = {name: f"num_{name}_layers" for name in ("region", "local", "global")}
_SIZES = {"num_hidden_layers": "layers", "hidden_size": "wide", "patch_size": "pixels per patch"}


def base_models(record: Mapping[str, Any]) -> list[str]:
    """Return what a run started from on the Hub: the backbones of its recipe, or those behind a fine-tuned model.

    Args:
        record: Content of `run.json`.
    """
    if record.get("model"):
        return [name for name in record.get("base_models") or [] if is_hub_id(name)]
    recipe = record.get("recipe") or {}
    return [recipe[key] for key in ("vision_model", "text_model") if is_hub_id(recipe.get(key))]


def architecture(config: Mapping[str, Any], record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (part, description) of a model.

    Args:
        config: Content of `config.json`; may be empty.
        record: Content of `run.json`; may be empty. Its recipe stands in for a configuration that is not there.
    """
    recipe = shaping_recipe(record)
    config = config or _recipe_config(recipe)
    rows = [
        ("vision backbone", _backbone(recipe.get("vision_model"), config.get("vision_config")) or _regions(config)),
        ("text backbone", _backbone(recipe.get("text_model"), config.get("text_config"))),
        ("embeddings", f"{markdown(config['projection_dim'])} dimensions" if "projection_dim" in config else None),
        ("encoders", _encoders(config)),
        ("mixed score", _mix(config)),
        ("objective", markdown(config.get("objective") or "")),
        ("parameters", f"{record['parameters']:,}" if record.get("parameters") else None),
    ]
    return [(name, value) for name, value in rows if value] if config or recipe else []


def region_width(config: Mapping[str, Any], record: Mapping[str, Any]) -> int | None:
    """Return the width of the region features that a model reads; None for a model that reads pixels.

    Args:
        config: Content of `config.json`; may be empty.
        record: Content of `run.json`; may be empty.
    """
    recipe = shaping_recipe(record)
    config = config or _recipe_config(recipe)
    reads_pixels = config.get("vision_config") or recipe.get("vision_model")
    return None if reads_pixels or not config else int(config.get("region_feature_size", 2048))


def shaping_recipe(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recipe that a model was built by; empty for a model that was there before the run.

    Args:
        record: Content of `run.json`.
    """
    return {} if record.get("model") else record.get("recipe") or {}


def training_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what is known of a training run: settings by stage, time, hardware, versions.

    Args:
        record: Content of `run.json`.
    """
    recipe = record.get("recipe") or {}
    training = recipe.get("training") or {}
    stages = [{**training, **stage} for stage in recipe.get("stages") or [{}]]
    lines = [
        ", ".join(f"{label} {markdown(stage[key])}" for key, label in _TRAINING.items() if stage.get(key))
        for stage in stages
    ]
    seconds = record.get("seconds") or {}
    if seconds and record.get("command"):
        parts = ", ".join(f"{markdown(name)} {value:.0f} s" for name, value in seconds.items())
        threads = f", {markdown(record['threads'])} threads" if record.get("threads") else ""
        lines.append(f"Time: {parts} (device `{code(record.get('device', 'unknown'))}`{threads})")
    if record.get("hardware"):
        lines.append(f"Hardware: {markdown(record['hardware'])}")
    versions = ", ".join(markdown(f"{name} {version}") for name, version in (record.get("versions") or {}).items())
    return [line for line in [*lines, versions and f"Versions: {versions}"] if line]


def _recipe_config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: recipe.get(key) for key in ("vision_config", "text_config")} if recipe else {}
    return {**recipe.get("model", {}), **parts}


def _backbone(name: str | None, config: Mapping[str, Any] | None) -> str | None:
    if is_hub_id(name):
        return f"[{name}](https://huggingface.co/{name})"
    if not config:
        return None
    sizes = [f"{markdown(config[key])} {unit}" for key, unit in _SIZES.items() if config.get(key)]
    return ", ".join([f"`{code(config.get('model_type', 'unknown'))}`", *sizes])


def _regions(config: Mapping[str, Any]) -> str | None:
    width = config.get("region_feature_size")
    return f"none; reads region features of {markdown(width)} dimensions" if width else None


def _encoders(config: Mapping[str, Any]) -> str | None:
    layers = [f"{name} {markdown(config[key])}" for name, key in _ENCODERS.items() if config.get(key)]
    return ", ".join(layers) + " layers" if layers else None


def _mix(config: Mapping[str, Any]) -> str | None:
    weights = [config.get(f"{name}_score_weight") for name in ("global", "local")]
    if None in weights:
        return None
    weights = [markdown(weight) for weight in weights]
    reduction = markdown(config.get("similarity_reduction", "mean"))
    return f"{weights[0]} x global + {weights[1]} x token similarity ({reduction} over words of the best region)"


__all__ = ["architecture", "base_models", "region_width", "shaping_recipe", "training_lines"]
