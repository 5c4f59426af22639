# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The card that a trainer writes: from the record of its run, or from what the trainer itself knows."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from hub_cards.cards import MARKER, model_card, read_record
from hub_cards.privacy import mask_tokens
from hub_cards.results import write_eval_results
from hub_cards.sources import data_source, is_hub_id

_FRONT_MATTER = {
    "language": "language",
    "license": "license",
    "tags": "tags",
    "finetuned_from": "base_model",
    "dataset_tags": "datasets",
}
_SETTINGS = (
    "train_stage",
    "freeze",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "learning_rate",
    "vision_learning_rate",
    "text_learning_rate",
)


def trainer_record(trainer: Any) -> dict[str, Any]:
    """Describe a trainer as `run.json` describes a run; results are those of its last evaluation.

    Args:
        trainer: CMCTrainer.
    """
    arguments, history = trainer.args, trainer.state.log_history
    training = {name: getattr(arguments, name) for name in _SETTINGS}
    if training["max_steps"] <= 0:
        del training["max_steps"]
    return {
        "command": _command(),
        "recipe": {"training": training, "eval_split": "evaluation"},
        "seed": arguments.seed,
        "seconds": dict([("training", entry["train_runtime"]) for entry in history if "train_runtime" in entry][-1:]),
        "parameters": trainer.accelerator.unwrap_model(trainer.model).num_parameters(),
        "protocol": "standard",
        "results": _last_results(history),
        "threads": torch.get_num_threads(),
        "device": str(arguments.device.type),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def write_trainer_card(trainer: Any, **metadata: Any) -> Path | None:
    """Write `README.md` and `.eval_results` into the output directory; None when somebody edited the card there.

    Args:
        trainer: CMCTrainer.
        **metadata: Front matter that replaces ours.
    """
    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    if path.exists() and not _may_replace(path.read_text(encoding="utf-8")):
        return None
    record: Mapping[str, Any] = read_record(folder) or trainer_record(trainer)
    core = trainer.accelerator.unwrap_model(trainer.model)
    adapters = getattr(core, "peft_config", {})
    bases = {adapter.base_model_name_or_path for adapter in adapters.values()}
    if adapters:
        metadata = {"base_model": sorted(filter(is_hub_id, bases)) or None, **metadata}
    repo_id = trainer.hub_model_id or trainer.args.hub_model_id or folder.resolve().name
    write_eval_results(folder, record, data_source(record))
    model_card(record, repo_id, config=core.config.to_dict(), adapter=bool(adapters), **metadata).save(path)
    return path


def _may_replace(card: str) -> bool:
    """Return whether a card is ours, or the template that PEFT writes beside an adapter."""
    return MARKER in card or ("library_name: peft" in card and "# Model Card for Model ID" in card)


def front_matter(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what arguments of `transformers.Trainer.create_model_card` put into the front matter of a card.

    Raises:
        TypeError: When an argument is none of that method's.

    Example:
        >>> front_matter(license="mit", finetuned_from="user/model")
        {'license': 'mit', 'base_model': 'user/model'}
    """
    given = inspect.signature(transformers.Trainer.create_model_card).bind(None, *args, **kwargs).arguments
    return {_FRONT_MATTER[name]: value for name, value in given.items() if name in _FRONT_MATTER and value}


def _last_results(history: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return `eval_<mode>_<metric>` of the last evaluation by mode and metric."""
    from ..evaluation import MODES

    last = next((entry for entry in reversed(history) if "eval_rsum" in entry), {})
    results: dict[str, dict[str, float]] = {}
    for mode in MODES:
        prefix = f"eval_{mode}_"
        metrics = {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}
        if metrics:
            results[mode] = metrics
    return results


def _command() -> str | None:
    """Return how this process was started; None for an interactive one, whose numbers no command makes again."""
    script = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else None
    if script is None or script in ("ipykernel_launcher.py", "colab_kernel_launcher.py"):
        return None
    words = [script] if script == "tgdt" else ["python", script]
    return mask_tokens(shlex.join([*words, *sys.argv[1:]]))
