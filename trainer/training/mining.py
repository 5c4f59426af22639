# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Hard negatives from the whole training set: look-alike photos, found by the model itself, share a batch."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..data.caption_dataset import CaptionDataset
from ..data_collator import normalise_caption
from ..samplers import DistinctPhotoSampler
from ..scoring.embeddings import RetrievalEmbeddings
from ..scoring.encoding import EncodeOptions, encode_dataset
from ..scoring.sharding import gather_rows, shard

logger = logging.getLogger(__name__)

Neighbours = NDArray[np.int64]
_BLOCK = 128  # photos scored against all captions at once


def mine_neighbours(
    embeddings: RetrievalEmbeddings, count: int, positives: Sequence[tuple[int, int]] = ()
) -> Neighbours:
    """Return for every photo the other photos with the caption that it is most easily taken for.

    The hardness of photo j for photo i is the largest global similarity of image i and a caption of j. The reverse,
    a caption of i that suits image j, makes i a neighbour of j, and a batch that holds both shows the loss both.

    Args:
        embeddings: All P photos and captions, the same on every process; tokens are not read.
        count: Neighbours per photo.
        positives: Pairs of photos that are not negatives of each other, in either order.

    Returns:
        (P, count) photo numbers, hardest first, padded with -1 where too few photos qualify.
    """
    photos = len(embeddings.image_embeds)
    forbidden: dict[int, list[int]] = defaultdict(list)
    for left, right in positives:
        forbidden[left].append(right)
        forbidden[right].append(left)
    mine = shard(photos)
    size = min(count, photos)
    blocks = [_hardest(embeddings, rows, size, forbidden) for rows in mine.split(_BLOCK) if len(rows)]
    neighbours = gather_rows(torch.cat([torch.zeros(0, size, dtype=torch.int64), *blocks]))
    return np.pad(neighbours.numpy(), ((0, 0), (0, count - size)), constant_values=-1)


def _hardest(embeddings: RetrievalEmbeddings, rows: Tensor, size: int, forbidden: dict[int, list[int]]) -> Tensor:
    """Return the neighbours (n, size) of some photos."""
    scores = embeddings.image_embeds[rows].float() @ embeddings.text_embeds.float().T  # (n, T)
    owners = embeddings.text_to_image.to(scores.device).expand_as(scores)
    hardness = scores.new_full((len(rows), len(embeddings.image_embeds)), -torch.inf)
    hardness.scatter_reduce_(1, owners, scores, "amax")
    for position, row in enumerate(rows.tolist()):
        hardness[position, [row, *forbidden[row]]] = -torch.inf
    values, neighbours = hardness.topk(size)
    return neighbours.masked_fill(values == -torch.inf, -1).cpu()


def equal_caption_pairs(captions: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Return pairs of photos that share a caption, up to case, spacing and end stop.

    Args:
        captions: Captions of each photo.

    Example:
        >>> equal_caption_pairs([["A dog."], ["a cat"], ["a  dog", "a cat"]])
        [(0, 2), (1, 2)]
    """
    owners: dict[str, list[int]] = defaultdict(list)
    for photo, texts in enumerate(captions):
        for text in {normalise_caption(text) for text in texts}:
            owners[text].append(photo)
    pairs = {(a, b) for photos in owners.values() for position, a in enumerate(photos) for b in photos[position + 1 :]}
    return sorted(pairs)


def mine_dataset(
    model: Any, processor: Any, dataset: CaptionDataset, count: int, options: EncodeOptions
) -> Neighbours:
    """Mine with a model's global embeddings.

    Args:
        model: TGDTModel, taken as it is and left in the mode it was in; the random state is left alone too.
        processor: TGDTProcessor.
        dataset: Training examples.
        count: Neighbours per photo.
        options: How to encode; tokens are not kept.

    Returns:
        (P, count) numbers of photos with captions, padded with -1; numbers count in the sorted order of the photos'
        ids, as in [`DistinctPhotoSampler`].

    Raises:
        ValueError: When a picture can no longer be read.
    """
    table = dataset.dataset.with_format(None).select_columns(["image_id", "captions"])[:]
    texts: dict[str, list[str]] = {}
    for image_id, captions in zip(table["image_id"], table["captions"], strict=True):
        texts.setdefault(image_id, []).extend(captions or [])
    with torch.random.fork_rng():
        embeddings = encode_dataset(model, processor, dataset, options)
    if len(embeddings.image_embeds) != len(texts):
        raise ValueError(
            f"Mining encoded {len(embeddings.image_embeds)} of {len(texts)} photos: pictures became unreadable since "
            "the run started. Load the data set again with on_error='skip'."
        )
    neighbours = mine_neighbours(embeddings, count, equal_caption_pairs(list(texts.values())))
    known = sorted(image_id for image_id, captions in texts.items() if captions)
    number_of = {image_id: number for number, image_id in enumerate(known)}
    numbers = np.array([number_of.get(image_id, -1) for image_id in texts])  # the sampler's, in the order of encoding
    renamed = np.where(neighbours >= 0, numbers[neighbours], -1)
    result = np.full((len(known), count), -1, dtype=np.int64)
    result[numbers[numbers >= 0]] = renamed[numbers >= 0]
    return result


class HardNegativeMining(TrainerCallback, ExportableState):
    """Mine at the start of every `mining_epochs`-th epoch but the first, and hand the neighbours to the sampler.

    What was mined is part of `trainer_state.json`, so that a run that resumes within an epoch deals the same batches.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.packed = ""
        self.count = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the epoch that was mined for, and the neighbours as base64 of int32."""
        return {"args": {}, "attributes": {"epoch": self.epoch, "packed": self.packed, "count": self.count}}

    @property
    def neighbours(self) -> Neighbours | None:
        """(P, count) neighbours in force, or `None` before the first mining."""
        if not self.packed:
            return None
        flat = np.frombuffer(base64.b64decode(self.packed), dtype="<i4")
        return flat.reshape(-1, self.count).astype(np.int64)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start afresh, or from what the checkpoint holds."""
        stored: Any = (state.stateful_callbacks or {}).get(type(self).__name__) if state.global_step else None
        self.epoch, self.packed, self.count = 0, "", 0
        if stored is not None:
            for name, value in stored["attributes"].items():
                setattr(self, name, value)
        _sampler(kwargs["train_dataloader"]).neighbours = self.neighbours

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mine where the epoch is one to mine for and that has not been done before a checkpoint."""
        epoch = int((state.epoch or 0) + 1e-6)  # a resumed run starts within the epoch
        if epoch == 0 or epoch % args.mining_epochs or epoch == self.epoch:
            return
        loader = kwargs["train_dataloader"]
        options = replace(EncodeOptions.of_arguments(args), tokens=False)
        model, processor = kwargs["model"], kwargs["processing_class"]
        neighbours = mine_dataset(model, processor, loader.dataset, args.hard_negatives, options)
        self.epoch, self.count = epoch, neighbours.shape[1]
        self.packed = base64.b64encode(neighbours.astype("<i4").tobytes()).decode()
        _sampler(loader).neighbours = neighbours
        logger.info("Mined %d hard negatives for each of %d photos.", neighbours.shape[1], len(neighbours))


def _sampler(loader: Any) -> DistinctPhotoSampler:
    """Find our sampler under the batch samplers that PyTorch and Accelerate put around it."""
    sampler = loader
    while sampler is not None and not isinstance(sampler, DistinctPhotoSampler):
        inner = getattr(sampler, "batch_sampler", None)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner
    if sampler is None:
        raise TypeError(
            "hard_negatives needs a map-style data set whose photos are known: pass a datasets.Dataset or a "
            "CaptionDataset as train_dataset, and leave unique_photos_per_batch on."
        )
    return sampler
