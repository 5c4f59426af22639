# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the trainer makes of its data sets: one example per caption, cached tokens, and the collator that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch

from modeling_tgdt.encoding_tgdt import fitted_processor
from modeling_tgdt.processing_tgdt import TGDTProcessor

from ..data.caption_dataset import CaptionDataset, IterableCaptionDataset
from ..data.skip_report import SkipReport
from ..data_collator import TGDTDataCollator
from ..datasets import load_captions
from ..training_args import CMCTrainingArguments
from .token_cache import cache_tokens


def training_examples(dataset: Any, args: CMCTrainingArguments, report: SkipReport) -> Any:
    """Give a `datasets` object one example per caption; leave other data sets as they are.

    Args:
        dataset: Training data, as `CMCTrainer` takes them.
        args: Policy for unreadable pictures, captions per image, seed.
        report: Receives (image_id, why) of unreadable pictures.

    Raises:
        TypeError: For a path, which `load_captions` reads.
    """
    options: dict[str, Any] = {"on_error": args.on_error, "report": report}
    if isinstance(dataset, str | Path):
        raise TypeError(
            f"train_dataset must be a data set, found the path {str(dataset)!r}. Pass load_captions of it."
        )
    if isinstance(dataset, datasets.Dataset):
        canonical = load_captions(dataset, **options)
        choice: Any = args.captions_per_image
        return CaptionDataset(canonical, captions_per_image=choice, seed=args.seed, **options)
    if isinstance(dataset, datasets.IterableDataset):
        return IterableCaptionDataset(load_captions(dataset, streaming=True, **options), seed=args.seed)
    return dataset


def with_cached_tokens(photos: Any, model: Any, processor: Any, args: CMCTrainingArguments, report: SkipReport) -> Any:
    """Replace the pictures of a data set, or of several by name, by the tokens of the frozen vision backbone.

    Args:
        photos: Data set; what holds region features already, or is no `datasets.Dataset`, stays as it is.
        model: TGDTModel with a vision backbone.
        processor: TGDTProcessor.
        args: Where the cache is, mixed precision, policy for unreadable pictures.
        report: Receives (image_id, why) of unreadable pictures.
    """
    if isinstance(photos, dict):
        return {name: with_cached_tokens(part, model, processor, args, report) for name, part in photos.items()}
    if not isinstance(photos, datasets.Dataset) or "region_features" in photos.column_names:
        return photos
    policy: Any = args.on_error
    return cache_tokens(
        model.to(args.device),
        processor,
        load_captions(photos, on_error=policy, report=report),
        args.token_cache_dir or Path(str(args.output_dir), "token_cache"),
        num_workers=args.dataloader_num_workers,
        on_error=policy,
        report=report,
        progress=not args.disable_tqdm,
        autocast_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
    )


def training_collator(processor: Any, model: Any, args: CMCTrainingArguments) -> TGDTDataCollator:
    """Return the collator of a run, with a processor whose captions fit the model where both are known.

    Args:
        processor: TGDTProcessor.
        model: TGDTModel, or None when `model_init` makes it.
        args: Dropout of words and regions.
    """
    if model is not None and isinstance(processor, TGDTProcessor):
        processor = fitted_processor(processor, model)
    return TGDTDataCollator(processor, word_dropout=args.word_dropout, region_dropout=args.region_dropout)


def collate_on_every_process(args: CMCTrainingArguments) -> None:
    """Have every process read the stream for its own batches.

    Accelerate would collate on the main process and join what it sends out, which fails on `return_loss` and on
    captions of differing widths.

    Args:
        args: Changed in place, unless they say how batches are dispatched.
    """
    config: Any = args.accelerator_config
    if config.dispatch_batches is None:
        config.dispatch_batches = False
