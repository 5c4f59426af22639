# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The gradient of a large batch at the memory of a small one (GradCache, arXiv 2101.06983)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from modeling_tgdt.objectives_tgdt import PairEmbeddings

Embed = Callable[[dict[str, Any]], PairEmbeddings]


def split_inputs(inputs: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Cut a batch into mini-batches; values that are not tensors go to each of them.

    Args:
        inputs: Model inputs: Bi rows of every tensor of the image side, Bt rows of every other.
        size: Images and captions of a mini-batch at most; more where one side has over `size` times as many rows.

    Example:
        >>> import torch
        >>> [len(part["x"]) for part in split_inputs({"x": torch.zeros(5)}, 2)]
        [2, 2, 1]
    """
    rows = {len(value) for value in inputs.values() if isinstance(value, Tensor)}
    count = min(-(-max(rows) // size), min(rows))  # no part without an image or without a caption
    shares = {name: value.tensor_split(count) for name, value in inputs.items() if isinstance(value, Tensor)}
    return [inputs | {name: share[number] for name, share in shares.items()} for number in range(count)]


def batch_dependent_layer(model: nn.Module) -> str | None:
    """Return the name of a layer that mixes the samples of a batch as it is now (a batch norm in training), or None.

    Example:
        >>> batch_dependent_layer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        '1'
    """
    layers = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    )
    return next(layers, None)


def cached_loss(
    embed: Embed,
    parts: list[dict[str, Any]],
    loss_of: Callable[[PairEmbeddings], Tensor],
    no_sync: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Return a loss over all parts whose backward pass embeds one part at a time.

    The parts are embedded without gradient, the loss is differentiated down to the embeddings, and calling
    `backward()` on the result embeds each part again, with the random state of the first time, and hands it its share
    of the gradient. Scaling by gradient accumulation or mixed precision reaches it like any other loss.

    Args:
        embed: Embeds one part with the (wrapped) model.
        parts: Mini-batches of one batch.
        loss_of: Loss of the joined embeddings.
        no_sync: Context in which a distributed model does not yet exchange gradients; left for the last part.
    """
    states, embedded = [], []
    for part in parts:
        states.append(_RandomState(part))
        with torch.no_grad():
            embedded.append(embed(part))
    joined = PairEmbeddings.cat(embedded).detached()
    loss = loss_of(joined)
    leaves = joined.differentiable()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    of_leaf = dict(zip(leaves, gradients, strict=True))
    sizes = {name: [len(part.tensors()[name]) for part in embedded] for name in of_leaf}

    def embed_again(scale: Tensor) -> None:
        shares = {name: gradient.split(sizes[name]) for name, gradient in of_leaf.items()}
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            last = number == len(parts) - 1
            with torch.enable_grad(), torch.random.fork_rng(devices=state.devices):
                state.restore()
                if last:
                    _share_gradient(embed(part), {name: share[number] for name, share in shares.items()}, scale)
                else:
                    with no_sync():
                        _share_gradient(embed(part), {name: share[number] for name, share in shares.items()}, scale)

    result = loss.detach().requires_grad_()
    result.register_hook(embed_again)
    return result


def _share_gradient(pairs: PairEmbeddings, gradients: dict[str, Tensor], scale: Tensor) -> None:
    """Run the backward pass of one part from the gradients of its embeddings."""
    terms = [
        (value * gradients[name][:, : value.shape[1]].to(value.dtype)).sum()
        for name, value in pairs.differentiable().items()
        if value.requires_grad
    ]
    (torch.stack(terms).sum() * scale).backward()


class _RandomState:
    """Random state before a part is embedded, to give dropout the same draws again."""

    def __init__(self, part: dict[str, Any]) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*part.values())

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)
