# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings of one batch, and their union over processes with the right gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from torch import Tensor

_IDS_PER_PROCESS = 1 << 32  # far above any batch


@dataclass
class PairEmbeddings:
    """Embeddings of B aligned (image, caption) pairs.

    Attributes:
        image_embeds: Global image embeddings (B, D).
        text_embeds: Global caption embeddings (B, D).
        image_tokens: Region embeddings (B, R, D).
        text_tokens: Word embeddings (B, W, D).
        image_mask: Boolean (B, R).
        text_mask: Boolean (B, W).
        image_ids: Integers (B,), equal for pairs of one photo; `None` when every pair is a photo of its own.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_tokens: Tensor
    text_tokens: Tensor
    image_mask: Tensor
    text_mask: Tensor
    image_ids: Tensor | None = None

    @classmethod
    def of(cls, outputs: Any, image_ids: Tensor | None) -> PairEmbeddings:
        """Take the embeddings out of a TGDTOutput."""
        return cls(
            outputs.image_embeds,
            outputs.text_embeds,
            outputs.image_token_embeds,
            outputs.text_token_embeds,
            outputs.image_token_mask,
            outputs.text_token_mask,
            image_ids,
        )

    @classmethod
    def cat(cls, parts: list[PairEmbeddings]) -> PairEmbeddings:
        """Join batches, padding regions and words to the widest."""
        columns: dict[str, Any] = {}
        for field in fields(cls):
            tensors = [getattr(part, field.name) for part in parts]
            columns[field.name] = None if tensors[0] is None else torch.cat(_pad_to_widest(tensors))
        return cls(**columns)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are set, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def differentiable(self) -> dict[str, Tensor]:
        """Return the embeddings proper, which carry gradients; masks and ids do not."""
        return {name: value for name, value in self.tensors().items() if value.is_floating_point()}

    def detached(self) -> PairEmbeddings:
        """Return new leaves that gather a gradient of their own."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.differentiable().items()}
        return PairEmbeddings(**{**self.tensors(), **leaves})


def gather_pairs(pairs: PairEmbeddings) -> PairEmbeddings:
    """Join the pairs of all processes, in rank order; only this process's rows carry a gradient.

    Every process then computes the loss of the whole batch, and its gradient reaches the own rows only. The mean over
    processes that DistributedDataParallel takes would be 1/processes of the gradient of one process that holds the
    whole batch; so the own rows pass their gradient on multiplied by the number of processes.

    Args:
        pairs: This process's pairs. All processes hold equally many. Negative ids are ids within the process.
    """
    state = PartialState()
    if state.num_processes == 1:
        return pairs
    if pairs.image_ids is None:  # unique on every process, and across processes
        first = state.process_index * len(pairs.image_embeds)
        ids = torch.arange(first, first + len(pairs.image_embeds), device=pairs.image_embeds.device)
    else:  # ids of photos without a name count down from -1 on every process
        ids = pairs.image_ids - state.process_index * _IDS_PER_PROCESS * (pairs.image_ids < 0)
    pairs = PairEmbeddings(**{**pairs.tensors(), "image_ids": ids})
    columns = {}
    for name, tensor in pairs.tensors().items():
        # Where it pads, Accelerate turns booleans into integers.
        widest = tensor if tensor.ndim < 2 else pad_across_processes(tensor, dim=1).to(tensor.dtype)
        shards = list(gather(widest.detach().contiguous()).chunk(state.num_processes))
        shards[state.process_index] = (
            _ScaleGradient.apply(widest, state.num_processes) if widest.is_floating_point() else widest
        )
        columns[name] = torch.cat(shards)
    return PairEmbeddings(**columns)


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _pad_to_widest(tensors: list[Tensor]) -> list[Tensor]:
    if tensors[0].ndim < 2:
        return tensors
    width = max(tensor.shape[1] for tensor in tensors)
    return [
        torch.cat([tensor, tensor.new_zeros(tensor.shape[0], width - tensor.shape[1], *tensor.shape[2:])], dim=1)
        for tensor in tensors
    ]
