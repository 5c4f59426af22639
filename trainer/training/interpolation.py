# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Weights between a model and what fine-tuning made of it (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

import copy

import torch

from modeling_tgdt import TGDTModel

from .head_scale import is_off, needs_scale


@torch.no_grad()
def interpolate_models(start: TGDTModel, tuned: TGDTModel, alpha: float) -> TGDTModel:
    """Return the model at `(1 - alpha) * start + alpha * tuned`, weight by weight.

    Between the two, a model often keeps most of what tuning taught it and forgets less of what it knew. Projections
    of an untrained dual encoder count at the scale that training gave them, which changes no embedding of it.

    Args:
        start: Where fine-tuning began.
        tuned: Where it ended; configuration, losses and weights of the score are taken from it.
        alpha: Share of the tuned weights: 0 is the start, 1 the tuned model.

    Raises:
        ValueError: When the share is not in [0, 1], or the two have not the same weights.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected alpha from 0 (the start) to 1 (the tuned model), found {alpha}.")
    first, last = start.state_dict(), tuned.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (first, last)]
    differing = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
    if differing:
        raise ValueError(
            f"Expected two models of one shape, found {len(set(differing))} weights that differ in it, such as "
            f"{differing[0]!r}. Interpolate a model with the one that it was fine-tuned from."
        )
    if needs_scale(start):
        first = {**first, **_at_scale(first, last)}
    merged = copy.deepcopy(tuned)
    for name, value in merged.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(first[name].float().to(value.device), last[name].float(), alpha))
    return merged


def _at_scale(first: dict[str, torch.Tensor], last: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the projections of `first` by the factor that brings them nearest to `last`, where it is large."""
    scaled: dict[str, torch.Tensor] = {}
    for side in ("visual_projection", "text_projection"):
        names = [name for name in first if name.startswith(f"{side}.")]
        ours, theirs = (torch.cat([state[name].float().flatten() for name in names]).cpu() for state in (first, last))
        factor = (ours @ theirs) / (ours @ ours)
        if is_off(factor.item()):
            scaled |= {name: first[name].float() * factor.to(first[name].device) for name in names}
    return scaled


__all__ = ["interpolate_models"]
