# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Union of the processes' pairs with the right gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from torch import Tensor

from modeling_tgdt.objectives_tgdt import PairEmbeddings, PairSizes

_IDS_PER_PROCESS = 1 << 32  # far above any batch


def gather_pairs(pairs: PairEmbeddings) -> PairEmbeddings:
    """Join the pairs of all processes, in rank order, then their hard negatives; only own rows carry a gradient.

    Every process then computes the loss of the whole batch, and its gradient reaches the own rows only. The mean over
    processes that DistributedDataParallel takes would be 1/processes of the gradient of one process that holds the
    whole batch; so the own rows pass their gradient on multiplied by the number of processes.

    Args:
        pairs: This process's pairs, equally many on all processes, and its hard negatives, any number. Negative ids
            are ids within the process.
    """
    state = PartialState()
    if state.num_processes == 1:
        return pairs
    sizes = pairs.sizes()
    # A process may have none where another has some, so all of them ask.
    beyond = torch.tensor([[sizes.images - sizes.pairs, sizes.texts - sizes.pairs]], device=pairs.image_embeds.device)
    counts = gather(beyond).T.tolist()
    columns = {}
    for name, tensor in replace(pairs, image_ids=_global_ids(pairs, sizes, state.process_index)).tensors().items():
        of_side = counts[0] if name.startswith("image_") else counts[1]
        # Where it pads, Accelerate turns booleans into integers.
        widest = tensor if tensor.ndim < 2 else pad_across_processes(tensor, dim=1).to(tensor.dtype)
        rows = [_gather_rows(widest[: sizes.pairs], [sizes.pairs] * state.num_processes, state)]
        if max(of_side):
            rows.append(_gather_rows(widest[sizes.pairs :], of_side, state))
        columns[name] = torch.cat(rows)
    return PairEmbeddings(**columns, num_pairs=sizes.pairs * state.num_processes)


def _global_ids(pairs: PairEmbeddings, sizes: PairSizes, rank: int) -> Tensor:
    """Return photo ids that hold across processes: ids of photos without a name count down from -1 on every one."""
    ids = pairs.image_ids
    if ids is None:
        ids = -1 - torch.arange(sizes.images, device=pairs.image_embeds.device)
    return ids - rank * _IDS_PER_PROCESS * (ids < 0)


def _gather_rows(local: Tensor, counts: list[int], state: PartialState) -> Tensor:
    """Join the rows of all processes, `counts` of them each; those of this process keep their gradient, scaled."""
    padding = local.new_zeros(max(counts) - len(local), *local.shape[1:])
    gathered = gather(torch.cat([local.detach(), padding]).contiguous())
    shards = [shard[:count] for shard, count in zip(gathered.chunk(state.num_processes), counts, strict=True)]
    if local.is_floating_point():
        local = _ScaleGradient.apply(local, state.num_processes)
    shards[state.process_index] = local
    return torch.cat(shards)


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
