# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Evaluate with a hubness correction, and collect the reference queries that it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modeling_tgdt.retriever.hubness import HubnessOptions

from ..data.splits import hashed_order
from .embeddings import RetrievalEmbeddings
from .encoding import EncodeOptions, encode_dataset, map_style


def corrected_embeddings(embeddings: RetrievalEmbeddings, hubness: HubnessOptions) -> RetrievalEmbeddings:
    """Return the same gallery with the correction as two more dimensions of the global embeddings.

    The dot product of a photo and a caption then is their cosine less the corrections of both. For one query the
    correction of its own side is the same for every item, so each direction ranks as corrected by its items alone.

    Args:
        embeddings: The gallery; tokens stay as they are.
        hubness: Bank and strength.
    """
    images = _extended(embeddings.image_embeds, hubness.corrections(embeddings.image_embeds, "image"), 0)
    texts = _extended(embeddings.text_embeds, hubness.corrections(embeddings.text_embeds, "text"), 1)
    return replace(embeddings, image_embeds=images, text_embeds=texts)


def collect_reference_queries(
    model: Any, processor: Any, dataset: Any, photos: int = 1000, options: EncodeOptions | None = None
) -> HubnessOptions:
    """Embed some training photos and all their captions as a bank of reference queries.

    Args:
        model: TGDTModel.
        processor: TGDTProcessor.
        dataset: Training photos, as [`load_captions`] returns them, with cached tokens, or a CaptionDataset.
        photos: How many at most; which ones depends on their ids alone.
        options: Batch size, workers, policy for broken pictures, progress bars.
    """
    dataset = map_style(dataset)
    ids = dataset.with_format(None)["image_id"][:]
    chosen = set(hashed_order(ids)[:photos])
    rows = dataset.select([row for row, name in enumerate(ids) if name in chosen])
    bank = encode_dataset(model, processor, rows, replace(options or EncodeOptions(), tokens=False))
    return HubnessOptions(bank.image_embeds, bank.text_embeds)


def _extended(embeds: Tensor, corrections: Tensor, column: int) -> Tensor:
    """Append minus the corrections in column `own` of two, and 1 in the other."""
    more = torch.ones(len(embeds), 2, dtype=embeds.dtype, device=embeds.device)
    more[:, column] = -corrections.to(more)
    return torch.cat([embeds, more], dim=1)
