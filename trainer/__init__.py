# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation of TGDT models."""

from .calibration import ScoreWeights, calibrate_scores
from .caption_dataset import CaptionDataset, IterableCaptionDataset
from .cmc_trainer import CMCTrainer
from .column_encoding import ColumnEncoder
from .data_collator import TGDTDataCollator
from .datasets import load_captions
from .evaluation import evaluate_retrieval
from .projection_init import warm_start
from .training_args import CMCTrainingArguments

__all__ = [
    "CMCTrainer",
    "CMCTrainingArguments",
    "CaptionDataset",
    "ColumnEncoder",
    "IterableCaptionDataset",
    "ScoreWeights",
    "TGDTDataCollator",
    "calibrate_scores",
    "evaluate_retrieval",
    "load_captions",
    "warm_start",
]
