# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Train a recipe from data set to saved model, and write down what happened."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, set_seed

from hub_cards.cards import read_record, write_model_card
from hub_cards.facts import base_models
from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor
from modeling_tgdt.backbones_tgdt import copy_weights, load_tower
from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.retriever.loading import is_dual_encoder
from modeling_tgdt.retriever.loading import load_pretrained as load_tgdt

from .cmc_trainer import CMCTrainer
from .data.splits import NoSplitError, hashed_order
from .datasets import load_captions
from .evaluation import evaluate_retrieval
from .recipe import Recipe
from .report import plot_curves, write_json
from .scenes.splits import DRAWN, draw_split
from .scenes.weights import shipped
from .scoring.calibration import calibrate_scores
from .scoring.hubness import collect_reference_queries
from .tokenizers import build_word_tokenizer
from .training.checkpoints import last_complete_checkpoint
from .training.precision import native_precision
from .training.projection_init import warm_start
from .training.stages import trained_modes
from .training_args import CMCTrainingArguments

logger = logging.getLogger(__name__)

_HELD_OUT_SHARE, _HELD_OUT_AT_MOST, _CALIBRATED_AT_MOST = 0.1, 1000, 200
_TOKEN_CACHE = "token_cache"
# What a recipe changes in a model that is trained already: losses, mixed score, dropout. All else is its shape.
_TUNABLE = {
    "similarity_reduction", "similarity_scale", "global_score_weight", "local_score_weight", "objective", "margin",
    "local_margin", "intra_margin", "global_loss_weight", "local_loss_weight", "intra_loss_weight", "temperature",
    "local_temperature", "sigmoid_bias", "local_sigmoid_bias", "hardest_negatives", "distill_loss_weight",
    "distill_temperature", "matryoshka_dims", "detach_global_encoder", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
}  # fmt: skip


@dataclass
class Run:
    """A finished run.

    Attributes:
        output_dir: Where model, processor, `metrics.json`, `run.json` and `curves.png` are.
        model: The trained model.
        processor: Its processor.
        results: Metrics by retrieval mode on the evaluation photos.
        seconds: Wall-clock time by part.
        evaluated: Which photos `results` are of: a split, or how many were held out.
        history: What the stages logged, one after the other.
        hubness: Reference queries for galleries of the model, drawn from its training photos.
    """

    output_dir: Path
    model: TGDTModel
    processor: TGDTProcessor
    results: dict[str, dict[str, float]]
    seconds: dict[str, float] = field(default_factory=dict)
    evaluated: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    hubness: HubnessOptions | None = None


def run_recipe(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    dataset: Any = None,
    features: str | Path | None = None,
    image_root: str | Path | None = None,
    model: str | None = None,
    seed: int = 0,
    resume: bool = False,
    command: str | None = None,
) -> Run:
    """Train a recipe and evaluate the result.

    Args:
        recipe: What to do.
        output_dir: Where everything is written.
        dataset: Anything that [`load_captions`] reads; that of the recipe when omitted. Of data without splits a tenth
            of the photos is held out for the evaluation.
        features: Region features that replace the pictures, see [`load_captions`].
        image_root: Folder that file names are relative to.
        model: Model directory, Hub id or weights of the package (`tgdt:scenes-model`) to fine-tune, with its
            processor; built from the recipe when omitted. Of the recipe's `model` it takes losses, score and dropout,
            and keeps its own shape.
        seed: Seed of weights, order and dropout.
        resume: Go on from the newest complete checkpoint of each stage.
        command: The command line that started the run, for the record.

    Raises:
        ValueError: When the recipe and the data do not fit together.
    """
    seconds, started = dict[str, float](), time.perf_counter()
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    origin = _origin(recipe.dataset if dataset is None else dataset, model)
    stages = [native_precision(arguments) for arguments in recipe.stage_arguments()]
    train, evaluation, evaluated = load_splits(recipe, dataset, features, image_root)
    train, calibration = hold_out(train, _CALIBRATED_AT_MOST) if recipe.calibrate else (train, None)
    network, processor = build(recipe, train) if model is None else load_pretrained(model, recipe)
    if recipe.attn_implementation is not None:
        network.set_attn_implementation(recipe.attn_implementation)
    _note(seconds, "setup", started)
    history: list[dict[str, float]] = []
    for number, arguments in enumerate(stages, start=1):
        folder = output / "checkpoints" / (f"stage-{number}" if len(stages) > 1 else "")
        trainer = CMCTrainer(
            model=network,
            args=_training_arguments(arguments, folder, seed, output / _TOKEN_CACHE),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=processor,
        )
        _note(seconds, f"stage {number} caching", started)
        checkpoint = last_complete_checkpoint(folder) if resume else None
        if recipe.warm_start and model is None and number == 1 and checkpoint is None:
            with trainer.accelerator.autocast():
                warm_start(network, processor, trainer.train_dataset)
            _note(seconds, "warm start", started)
        trainer.train(resume_from_checkpoint=checkpoint)
        _note(seconds, f"stage {number} training", started)
        history += [{**entry, "stage": number} for entry in trainer.state.log_history]
    if calibration is not None:
        calibrate_scores(network, processor, calibration, apply=True, options=trainer.encode_options())
    modes: Any = trained_modes(network.config)
    hubness = None
    if recipe.reference_photos and "global" in modes:
        rows, count = trainer.train_dataset, recipe.reference_photos
        hubness = collect_reference_queries(network, processor, rows, count, trainer.encode_options())
    results = evaluate_retrieval(
        network,
        processor,
        trainer.eval_dataset,
        protocol=recipe.protocol,  # type: ignore[arg-type]
        modes=modes,
        hubness=hubness,
        options=trainer.encode_options(),
    )
    _note(seconds, "evaluation", started)
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    run = Run(output, network.eval(), processor, results, rounded, evaluated, history, hubness)
    photos = {"train": len(train), "calibration": len(calibration or ()), "evaluation": len(evaluation)}
    precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[trainer.accelerator.mixed_precision]
    made = {"command": command, "seed": seed, "photos": photos, "precision": precision}
    _write(run, recipe, {**origin, **made})
    shutil.rmtree(output / _TOKEN_CACHE, ignore_errors=True)
    return run


def _note(seconds: dict[str, float], part: str, started: float) -> None:
    """Note how long a part of the run took: what has passed since the parts that are noted already."""
    seconds[part] = time.perf_counter() - started - sum(seconds.values())


def _training_arguments(stage: Mapping[str, Any], folder: Path, seed: int, cache: Path) -> CMCTrainingArguments:
    """Return the arguments of a stage, which may override all of these."""
    defaults = {
        "output_dir": str(folder),
        "report_to": [],
        "per_device_eval_batch_size": 64,
        "seed": seed,
        "token_cache_dir": str(cache),
        "use_cpu": not torch.accelerator.is_available(),  # without a GPU the Trainer takes bf16 only when told so
    }
    return CMCTrainingArguments(**{**defaults, **stage})


def load_splits(
    recipe: Recipe, dataset: Any, features: str | Path | None, image_root: str | Path | None
) -> tuple[Any, Any, str]:
    """Load the photos to train and to evaluate on; of data without splits some are held out.

    Args:
        recipe: Names data set and splits.
        dataset: As for [`run_recipe`].
        features: As for [`run_recipe`].
        image_root: As for [`run_recipe`].

    Returns:
        Training photos, evaluation photos, and a description of the latter: the split, or how many were held out.

    Raises:
        ValueError: When only one of the splits is there, or there are fewer than two photos.
    """
    where = (dataset, features, image_root)
    try:
        evaluation = load_split(recipe, recipe.eval_split, *where)
        return load_split(recipe, recipe.train_split, *where), evaluation, recipe.eval_split
    except NoSplitError:
        photos = load_split(recipe, None, *where)
    train, evaluation = hold_out(photos)
    logger.warning(
        "The data have no splits %r and %r: %d of %d photos are held out for the evaluation, the same ones in every "
        "run. To split the data yourself, add a column 'split', or put captions_train.csv and "
        "captions_validation.csv into the folder.",
        recipe.train_split, recipe.eval_split, len(evaluation), len(photos),
    )  # fmt: skip
    return train, evaluation, f"{len(evaluation)} held-out photos of {len(photos)}"


def hold_out(photos: Any, at_most: int = _HELD_OUT_AT_MOST) -> tuple[Any, Any]:
    """Hold out a tenth of the photos, chosen by a hash of their ids: whatever the seed, they are the same.

    Args:
        photos: What [`load_captions`] returns.
        at_most: How many are held out of a large set.

    Returns:
        The photos that are left, and those held out.

    Raises:
        ValueError: When there are fewer than two photos.
    """
    ids = photos.with_format(None)["image_id"][:]
    order = hashed_order(ids)
    if len(order) < 2:
        raise ValueError(
            f"Expected at least 2 photos, to train on and to evaluate on, found {len(order)}. Add photos."
        )
    held = set(order[: max(1, min(round(_HELD_OUT_SHARE * len(order)), at_most))])
    is_held = np.array([name in held for name in ids])
    return photos.select(np.flatnonzero(~is_held)), photos.select(np.flatnonzero(is_held))


def load_split(
    recipe: Recipe, split: str | None, dataset: Any, features: str | Path | None, image_root: str | Path | None
) -> Any:
    """Load one split of a recipe's data, or every photo for None; scenes are drawn here and now."""
    source = recipe.dataset if dataset is None else dataset
    if source is None:
        raise ValueError("The recipe names no data set. Pass --dataset: a Hub id, a file or a folder.")
    if isinstance(source, str) and source in DRAWN:
        return draw_split(source, "train" if split == recipe.train_split else "validation", recipe.image_size or 224)
    return load_captions(source, split, features=features, image_root=image_root, restval=recipe.restval)


def build(recipe: Recipe, train: Any) -> tuple[TGDTModel, TGDTProcessor]:
    """Make a new model and its processor as a recipe says.

    Args:
        recipe: Backbones by name, or their configurations.
        train: Training photos, for the vocabulary of a text backbone that starts from nothing.

    Raises:
        ValueError: When the recipe names neither a text model nor a text configuration.
    """
    side = recipe.image_size or 224
    size = {"height": side, "width": side}
    if recipe.text_model is None:
        if recipe.text_config is None:
            raise ValueError("The recipe needs text_model (a Hub id or directory) or text_config.")
        captions = [caption for row in train["captions"] for caption in row]
        tokenizer = build_word_tokenizer(captions)
        text = AutoConfig.for_model(**recipe.text_config, vocab_size=len(tokenizer))
        tower = (
            None if recipe.vision_model is None else load_tower(shipped(recipe.vision_model), "vision", torch.float32)
        )
        vision = tower.config if tower else recipe.vision_config and AutoConfig.for_model(**recipe.vision_config)
        model = TGDTModel(TGDTConfig(text_config=text, vision_config=vision, **recipe.model))
        if tower:
            copy_weights(tower, model.get_submodule("vision_model"))
        return model, TGDTProcessor(TGDTImageProcessor(size=size), tokenizer)
    pretrained: Any = AutoTokenizer.from_pretrained(recipe.text_model, trust_remote_code=False)
    depth = recipe.text_num_hidden_layers
    model = TGDTModel.from_vision_text_pretrained(
        recipe.vision_model, recipe.text_model, text_num_hidden_layers=depth, **recipe.model
    )
    if recipe.vision_model is None:
        return model, TGDTProcessor(TGDTImageProcessor(size=size), pretrained)
    whole: dict[str, Any] = {"size": size, "do_center_crop": False} if recipe.image_size else {}
    return model, TGDTProcessor(TGDTImageProcessor.from_backbone(recipe.vision_model, **whole), pretrained)


def load_pretrained(name_or_path: str, recipe: Recipe) -> tuple[TGDTModel, TGDTProcessor]:
    """Load a model to fine-tune, and its processor.

    Args:
        name_or_path: Directory, Hub id or weights of the package. The model keeps its shape; where the recipe asks for
            another one, this is logged.
        recipe: Gives the losses, the weights of the score, and the dropout.
    """
    name_or_path = shipped(name_or_path)
    changes = {name: value for name, value in recipe.model.items() if name in _TUNABLE}
    if is_dual_encoder(name_or_path):
        return load_tgdt(name_or_path, dtype=torch.float32, **changes)
    config = TGDTConfig.from_pretrained(name_or_path, **changes)
    kept = sorted(name for name, value in recipe.model.items() if value not in (None, getattr(config, name)))
    if kept:
        values = ", ".join(f"{name}={getattr(config, name)!r}" for name in kept)
        logger.warning("%s keeps its own %s; a recipe shapes new models only.", name_or_path, values)
    model = TGDTModel.from_pretrained(name_or_path, config=config, dtype=torch.float32)
    return model, TGDTProcessor.from_pretrained(name_or_path)


def _origin(source: Any, model: str | None) -> dict[str, Any]:
    """Return what data and model a run starts from, for the record, which keeps only the last part of a path."""
    dataset = type(source).__name__
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        dataset = f"./{path.resolve().name}" if source not in DRAWN and path.exists() else str(source)
    if model is None:
        return {"dataset": dataset}
    is_local = Path(model).exists() or shipped(model) != model
    bases = base_models(read_record(model)) if is_local else [model]
    name = f"./{Path(model).resolve().name}" if Path(model).exists() else model
    return {"dataset": dataset, "model": name, "base_models": bases}


def _write(run: Run, recipe: Recipe, origin: dict[str, Any]) -> None:
    run.model.save_pretrained(run.output_dir)
    run.processor.save_pretrained(run.output_dir)
    if run.hubness is not None:
        run.hubness.save_pretrained(run.output_dir)
    write_json(run.output_dir / "metrics.json", run.results)
    record = {
        **origin,
        "recipe": asdict(recipe),
        "evaluated": run.evaluated,
        "seconds": run.seconds,
        "history": run.history,
        "parameters": run.model.num_parameters(),
        "protocol": recipe.protocol,
        "results": run.results,
        "threads": torch.get_num_threads(),
        "device": str(run.model.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_json(run.output_dir / "run.json", record)
    write_model_card(run.output_dir)
    plot_curves(run.history, run.output_dir / "curves.png")
