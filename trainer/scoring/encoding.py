# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Encode every photo and every caption of a data set exactly once, shared over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from tqdm.auto import tqdm

from modeling_tgdt.encoding_tgdt import evaluating, fitted_processor

from ..data.canonical import canonicalise
from ..data.caption_dataset import CaptionDataset, undecoded, with_picture
from ..data.negatives import NEGATIVE_FEATURES
from ..data.skip_report import SkipReport
from ..data_collator import TGDTDataCollator
from ..images import OnError, check_policy
from .embeddings import RaggedTokens, RetrievalEmbeddings
from .sharding import gather_rows, is_main_process, shard


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode.

    Attributes:
        batch_size: Photos, or captions, per forward pass.
        num_workers: Data-loader processes that decode pictures.
        max_length: Longest caption in word pieces; the tokenizer's limit by default.
        token_dtype: How token embeddings are kept; float16 halves the memory of a large gallery.
        tokens: Whether token embeddings are kept; global scores need none.
        on_error: Unreadable pictures: `"raise"`; `"skip"` leaves the photo and its captions out; `"placeholder"`.
        report: Receives (image_id, why) of unreadable pictures.
        progress: Whether to show progress bars.
    """

    batch_size: int = 64
    num_workers: int = 0
    max_length: int | None = None
    token_dtype: torch.dtype = torch.float32
    tokens: bool = True
    on_error: OnError = "raise"
    report: SkipReport | None = None
    progress: bool = True

    @classmethod
    def of_arguments(cls, args: Any) -> EncodeOptions:
        """Read batch size, workers and progress bars from training arguments.

        Args:
            args: `transformers.TrainingArguments`.
        """
        return cls(args.eval_batch_size, args.dataloader_num_workers, progress=not args.disable_tqdm)


def encode_dataset(
    model: Any, processor: Any, dataset: Any, options: EncodeOptions | None = None
) -> RetrievalEmbeddings:
    """Embed the photos and captions of a data set.

    Args:
        model: TGDTModel, maybe wrapped for distributed training; left in the mode it was in.
        processor: TGDTProcessor.
        dataset: `datasets.Dataset` with pictures or regions, captions and ids (see [`load_captions`]), or a
            CaptionDataset of it.
        options: See [`EncodeOptions`].

    Returns:
        Embeddings on the CPU, the same on every process.

    Raises:
        TypeError: When the data set is a stream.
        UnreadableImageError: For a broken picture under `on_error="raise"`.
    """
    options = options or EncodeOptions()
    check_policy(options.on_error)
    rows = _Photos(map_style(dataset), options.on_error, options.report or SkipReport())
    captions, owners = rows.captions()
    core = getattr(model, "module", model)
    collator = TGDTDataCollator(fitted_processor(processor, core), options.max_length)
    with evaluating(core):
        images = _encode(core.get_image_features, rows.batches(collator, options), core.device, options, "photos")
        batches = _text_batches(captions, collator, options)
        texts = _encode(core.get_text_features, batches, core.device, options, "captions")
    return _joined(images, texts, owners)


@dataclass(frozen=True)
class _Encoded:
    """Item numbers (N,), global embeddings (N, D) and tokens of the items that could be encoded, in item order."""

    numbers: Tensor
    embeds: Tensor
    tokens: RaggedTokens | None


class _Photos(torch.utils.data.Dataset):
    """Unique photos of a data set, decoded when asked for."""

    def __init__(self, dataset: datasets.Dataset, on_error: OnError, report: SkipReport) -> None:
        table = dataset.with_format(None).select_columns(["captions", "image_id"])[:]
        self.texts: dict[str, list[str]] = {}
        first: dict[str, int] = {}
        for row, (image_id, captions) in enumerate(zip(table["image_id"], table["captions"], strict=True)):
            first.setdefault(image_id, row)
            self.texts.setdefault(image_id, []).extend(captions or [])
        self.rows = list(first.values())
        unread = [name for name in NEGATIVE_FEATURES if name in dataset.column_names]
        self.dataset = undecoded(dataset.remove_columns(unread) if unread else dataset)
        self.on_error, self.report = on_error, report

    def captions(self) -> tuple[list[str], Tensor]:
        """Return all captions, photo by photo, and the photo of each (T,)."""
        counts = torch.tensor([len(captions) for captions in self.texts.values()])
        texts = [caption for captions in self.texts.values() for caption in captions]
        return texts, torch.arange(len(counts)).repeat_interleave(counts)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = with_picture(self.dataset[self.rows[index]], self.on_error, self.report)
        return {**(row or {}), "number": index, "readable": row is not None}

    def batches(self, collator: TGDTDataCollator, options: EncodeOptions) -> Sequence[Any]:
        """Return a data loader over this process's share: (numbers, model inputs)."""
        loader: Any = torch.utils.data.DataLoader(
            torch.utils.data.Subset(self, shard(len(self), even=True).tolist()),
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            collate_fn=_ReadableOnly(collator),
        )
        return loader


class _ReadableOnly:
    """Collate the readable photos of a batch; picklable, for spawned workers."""

    def __init__(self, collator: TGDTDataCollator) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
        readable = [example for example in examples if example["readable"]]
        numbers = torch.tensor([example["number"] for example in readable], dtype=torch.int64)
        return numbers, self.collator.images(readable) if readable else {}


class _TextBatches:
    """Tokenized captions of this process's share, of like length together."""

    def __init__(self, captions: list[str], collator: TGDTDataCollator, options: EncodeOptions) -> None:
        by_length = torch.tensor([len(caption) for caption in captions]).argsort(descending=True, stable=True)
        self.batches = by_length[shard(len(captions), even=True)].split(options.batch_size)
        self.captions, self.collator = captions, collator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for numbers in self.batches:
            yield numbers, self.collator.texts([self.captions[number] for number in numbers.tolist()])


def _text_batches(captions: list[str], collator: TGDTDataCollator, options: EncodeOptions) -> _TextBatches:
    if not captions:
        raise ValueError("The data set has no captions to evaluate. Check the split and the caption column.")
    return _TextBatches(captions, collator, options)


def _encode(
    features_of: Callable[..., Any], batches: Iterable[Any], device: torch.device, options: EncodeOptions, what: str
) -> _Encoded:
    numbers, embeds, tokens = [], [], []
    hidden = not (options.progress and is_main_process())
    for chosen, inputs in tqdm(batches, desc=f"Encoding {what}", unit="batch", disable=hidden):
        if not len(chosen):
            continue
        features = features_of(**{name: value.to(device) for name, value in inputs.items()})
        numbers.append(chosen)
        embeds.append(features.pooler_output.float().cpu())
        if options.tokens:
            kept = RaggedTokens.from_padded(features.last_hidden_state.to(options.token_dtype), features.token_mask)
            tokens.append(kept.to("cpu"))
    if not numbers:
        raise ValueError(f"None of the {what} could be encoded. The report of skipped pictures says why.")
    return _gathered(torch.cat(numbers), torch.cat(embeds), RaggedTokens.cat(tokens) if tokens else None)


def _gathered(numbers: Tensor, embeds: Tensor, tokens: RaggedTokens | None) -> _Encoded:
    """Join the shares of all processes, each item once, in item order."""
    numbers = gather_rows(numbers)
    embeds = gather_rows(embeds)
    if tokens is not None:
        tokens = RaggedTokens.from_lengths(gather_rows(tokens.flat), gather_rows(tokens.lengths))
    order = numbers.argsort(stable=True)
    repeated = numbers[order].diff(prepend=torch.tensor([-1])) == 0
    order = order[~repeated]
    return _Encoded(numbers[order], embeds[order], None if tokens is None else tokens.select(order))


def _joined(images: _Encoded, texts: _Encoded, owners: Tensor) -> RetrievalEmbeddings:
    """Join photos with their captions, but those of photos that could not be read; `owners` (T,) are photo numbers."""
    row_of = torch.full((int(owners.max()) + 1,), -1)
    known = images.numbers[images.numbers < len(row_of)]
    row_of[known] = torch.arange(len(known))
    text_to_image = row_of[owners]
    kept = (text_to_image >= 0).nonzero()[:, 0]
    words = None if texts.tokens is None else texts.tokens.select(kept)
    return RetrievalEmbeddings(images.embeds, texts.embeds[kept], text_to_image[kept], images.tokens, words)


def map_style(dataset: Any) -> datasets.Dataset:
    """Return the rows behind what an evaluation is given, with canonical columns.

    Args:
        dataset: `datasets.Dataset`, or a CaptionDataset of it.

    Raises:
        TypeError: When the data set is a stream.
    """
    if isinstance(dataset, CaptionDataset):
        dataset = dataset.dataset
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"Evaluation needs a datasets.Dataset or a CaptionDataset, found {type(dataset).__name__}. Load it with "
            "load_captions(..., streaming=False)."
        )
    return dataset if _is_canonical(dataset) else canonicalise(dataset)


def _is_canonical(dataset: datasets.Dataset) -> bool:
    """Tell whether the columns have the canonical names, and captions are lists of strings."""
    names = set(dataset.column_names)
    if not ({"captions", "image_id"} <= names and names & {"image", "region_features"}):
        return False
    return bool(dataset.features["captions"] == datasets.List(datasets.Value("string")))
