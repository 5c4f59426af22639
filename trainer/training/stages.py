# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What trains in which stage.

The authors' script detaches the local encoders, so that on its own it trains two heads on untrained features. What
their setting asks for are two stages: `local` (backbones, projections and local encoders, by token similarity), then
`global` (the two global encoders on frozen tokens, by global similarity and consistency). `joint` trains all at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from modeling_tgdt import CMCLoss

STAGES = ("joint", "local", "global")
TOWERS = {"vision": "vision_model", "text": "text_model"}
_GLOBAL_ENCODERS = ("text_global_encoder.", "vision_global_encoder.")


def trains(name: str, stage: str, freeze: Sequence[str]) -> bool:
    """Tell whether a parameter of that name may train in a stage.

    Args:
        name: Dotted name; prefixes of wrappers such as PEFT's may stand before it.
        stage: `"joint"`, `"local"` or `"global"`.
        freeze: Towers that stay as they are: `"vision"`, `"text"`.

    Example:
        >>> trains("text_global_encoder.layers.0.fc1.weight", "local", ())
        False
    """
    if any(f"{TOWERS[tower]}." in name for tower in freeze):
        return False
    is_global = any(encoder in name for encoder in _GLOBAL_ENCODERS)
    return stage == "joint" or "logit_scales." in name or is_global == (stage == "global")


def trained_modes(config: Any) -> tuple[str, ...]:
    """Return the retrieval modes whose scores the loss of a configuration trains.

    Args:
        config: TGDTConfig.

    Example:
        >>> from modeling_tgdt import TGDTConfig
        >>> trained_modes(TGDTConfig(local_loss_weight=0))
        ('global',)
    """
    if not config.local_loss_weight:
        return ("global",)
    if not (config.global_loss_weight or config.intra_loss_weight or config.distill_loss_weight):
        return ("local",)
    return ("global", "local", "exhaustive", "two_stage")


@contextmanager
def training_stage(model: nn.Module, stage: str, freeze: Sequence[str]) -> Iterator[None]:
    """Freeze what a stage does not train, and give every parameter its flag back afterwards.

    Args:
        model: Model whose `requires_grad` flags are lowered for the duration.
        stage: As in [`trains`].
        freeze: As in [`trains`].

    Raises:
        ValueError: When nothing would train.
    """
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and trains(name, stage, freeze))
    try:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"Nothing trains in stage {stage!r} with freeze={list(freeze)}: unfreeze something.")
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the largest modules that have parameters, none of which trains.

    They run in evaluation mode: dropout and batch statistics of a part that does not learn only add noise.
    """
    modules: list[nn.Module] = []
    for child in model.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            modules.append(child)
        else:
            modules += frozen_modules(child)
    return modules


def stage_loss(model: Any, stage: str, margin_share: float = 1.0) -> CMCLoss:
    """Return the model's own loss, cut to what a stage trains.

    Args:
        model: TGDTModel.
        stage: `"local"` keeps the token term, `"global"` the global, consistency and distillation terms.
        margin_share: Share of the configured margins, for a warm-up.
    """
    loss: CMCLoss = model.loss_module()
    if stage == "local":
        loss.global_weight = loss.intra_weight = loss.distill_weight = 0.0
    elif stage == "global":
        loss.local_weight = 0.0
    loss.margin *= margin_share
    loss.local_margin *= margin_share
    return loss
