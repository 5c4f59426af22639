# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Bring the projections of a dual encoder to the scale on which fresh residual heads learn.

A residual layer normalises what it reads, so that what it learns to add has one size, whatever the size of the stream
that it is added to. Projected captions of a dual encoder may be a tenth as large; the first steps then overwrite them,
and retrieval falls below its start. Embeddings are unit vectors, and fresh heads add nothing: a scaled projection
changes no embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_EXAMPLES = 16  # enough for a size
_TOLERATED = 2.0  # sizes within this factor of 1 stay as they are


def needs_scale(model: nn.Module) -> bool:
    """Tell whether a model was taken up from a dual encoder and has not been trained since.

    Args:
        model: Any model. Needed are residual heads that add nothing yet, behind the source's own pooled outputs, under
            a score that does not count tokens.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "encoder_layer_type", None) != "residual" or config.local_score_weight:
        return False
    if (config.image_global_token, config.text_global_token) != ("pooled", "pooled"):
        return False
    last = [module for module in model.modules() if getattr(module, "initializer_range", None) == 0.0]
    return bool(last) and not any(parameter.any() for module in last for parameter in module.parameters())


def is_off(size: float) -> bool:
    """Tell whether a size is so far from 1 that it is brought there.

    Args:
        size: Root mean square, or the factor by which it was changed.
    """
    return not 1 / _TOLERATED < size < _TOLERATED


def first_examples(dataset: Any) -> list[Any]:
    """Return up to 16 examples to measure on.

    Args:
        dataset: Map-style, or iterable from the start as often as one likes.
    """
    if hasattr(dataset, "__len__"):
        return [dataset[number] for number in range(min(_EXAMPLES, len(dataset)))]
    return list(islice(dataset, _EXAMPLES))


def match_head_scale(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Divide each projection by the root mean square of what it gives the global slots.

    Args:
        model: TGDTModel for which [`needs_scale`] holds.
        inputs: A batch for it.

    Returns:
        What each projection was divided by; those within a factor of two of 1 are left alone.
    """
    sizes: dict[str, float] = {}
    hooks = [
        getattr(model, name).register_forward_hook(_recorder(sizes, name))
        for name in ("visual_projection", "text_projection")
    ]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    changed = {name: size for name, size in sizes.items() if size and is_off(size)}
    for name, size in changed.items():
        for parameter in getattr(model, name).parameters():
            parameter.data.div_(size)
    logger.info("Projections divided by %s, so that fresh heads learn at their scale.", changed)
    return changed


def _recorder(sizes: dict[str, float], name: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        sizes[name] = output[:, 0].float().square().mean().sqrt().item()  # (B, 1 + tokens, D): the slot comes first

    return record


__all__ = ["first_examples", "is_off", "match_head_scale", "needs_scale"]
