# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation of TGDT models. Names are imported when asked for, so the command line starts at once."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cmc_trainer import CMCTrainer
    from .data.caption_dataset import CaptionDataset, IterableCaptionDataset
    from .data.column_encoding import ColumnEncoder
    from .data_collator import TGDTDataCollator
    from .datasets import load_captions
    from .evaluation import evaluate_retrieval
    from .scoring.calibration import ScoreWeights, calibrate_scores
    from .scoring.grounding import evaluate_grounding
    from .scoring.hubness import collect_reference_queries
    from .scoring.look_alikes import look_alike_accuracy
    from .training.projection_init import warm_start
    from .training_args import CMCTrainingArguments

_MODULES = {
    "CMCTrainer": "cmc_trainer",
    "CMCTrainingArguments": "training_args",
    "CaptionDataset": "data.caption_dataset",
    "ColumnEncoder": "data.column_encoding",
    "IterableCaptionDataset": "data.caption_dataset",
    "ScoreWeights": "scoring.calibration",
    "TGDTDataCollator": "data_collator",
    "calibrate_scores": "scoring.calibration",
    "collect_reference_queries": "scoring.hubness",
    "evaluate_grounding": "scoring.grounding",
    "evaluate_retrieval": "evaluation",
    "load_captions": "datasets",
    "look_alike_accuracy": "scoring.look_alikes",
    "warm_start": "training.projection_init",
}


try:
    __version__ = metadata.version("tgdt")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    """Import a public name where it stands."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_MODULES])


__all__ = [
    "__version__",
    "CMCTrainer",
    "CMCTrainingArguments",
    "CaptionDataset",
    "ColumnEncoder",
    "IterableCaptionDataset",
    "ScoreWeights",
    "TGDTDataCollator",
    "calibrate_scores",
    "collect_reference_queries",
    "evaluate_grounding",
    "evaluate_retrieval",
    "load_captions",
    "look_alike_accuracy",
    "warm_start",
]
