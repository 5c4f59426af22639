# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What `transformers.Trainer` takes and an image-text retriever cannot honour is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLING = ("random", "sequential")


def check_arguments(args: Any) -> None:
    """Refuse arguments that would be ignored, or fail after the first evaluation.

    Args:
        args: CMCTrainingArguments.

    Raises:
        ValueError: For the first of them.
    """
    if args.remove_unused_columns:
        raise ValueError("remove_unused_columns must be False: the collator reads the columns of the photos.")
    if args.batch_eval_metrics:
        raise ValueError(
            "batch_eval_metrics must be False: a photo is ranked among all captions, not those of a batch."
        )
    if args.train_sampling_strategy not in _SAMPLING:
        raise ValueError(
            f"train_sampling_strategy must be among {list(_SAMPLING)}, found {args.train_sampling_strategy!r}. "
            "Captions are padded to the longest of their batch as they are."
        )
    if args.train_sampling_strategy == "sequential" and args.hard_negatives:
        raise ValueError("hard_negatives deals batches anew: leave train_sampling_strategy at 'random'.")
    metric = (args.metric_for_best_model or "rsum").removeprefix("eval_")
    if metric.endswith("loss"):
        raise ValueError(
            f"metric_for_best_model must be a metric of the evaluation, such as 'rsum' or 'global_t2i_r1', found "
            f"{args.metric_for_best_model!r}: the loss depends on the batches and is not measured."
        )


def check_inputs(train_dataset: Any, processing_class: Any, data_collator: Any, options: Mapping[str, Any]) -> None:
    """Refuse data sets, processors and options of another kind than [`CMCTrainer`] works with, by name.

    Args:
        train_dataset: As given to the trainer.
        processing_class: As given to the trainer.
        data_collator: As given to the trainer.
        options: The other keyword arguments of `transformers.Trainer`.

    Raises:
        TypeError: For data by split where one data set is needed, or a processing class that is not a processor.
        ValueError: When there is neither processor nor collator, or an option would never be called.
    """
    if isinstance(train_dataset, Mapping):
        splits = ", ".join(map(repr, train_dataset))
        raise TypeError(f"train_dataset must be one data set, found several ({splits}). Pass one, as photos['train'].")
    if data_collator is None and processing_class is None:
        raise ValueError("CMCTrainer needs processing_class=TGDTProcessor(...), or a data_collator of your own.")
    parts = ("tokenizer", "image_processor")
    if processing_class is not None and not all(hasattr(processing_class, part) for part in parts):
        raise TypeError(
            f"processing_class must be a TGDTProcessor, found {type(processing_class).__name__}. Build one: "
            "TGDTProcessor(image_processor, tokenizer)."
        )
    if options.get("preprocess_logits_for_metrics") is not None:
        raise ValueError(
            "preprocess_logits_for_metrics would never be called: compute_metrics gets embeddings, not logits."
        )


def metric_name(args: Any) -> str:
    """Return the key of the metric that chooses between models, in what an evaluation returns.

    Args:
        args: CMCTrainingArguments.
    """
    name = args.metric_for_best_model or "rsum"
    return name if name.startswith("eval_") else f"eval_{name}"


__all__ = ["check_arguments", "check_inputs", "metric_name"]
