# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Mixed precision where the processor has instructions for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

logger = logging.getLogger(__name__)


def multiplies_bfloat16() -> bool:
    """Tell whether training in bfloat16 is faster than in float32 here; an x86 processor without it emulates it."""
    if torch.accelerator.is_available():
        return True
    features = torch.cpu.get_capabilities()
    return features.get("architecture") != "x86_64" or bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def native_precision(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return training arguments without a `bf16` that this processor would only emulate, at a fraction of the speed.

    Args:
        arguments: Fields of [`CMCTrainingArguments`], as a recipe gives them.
    """
    if not arguments.get("bf16") or multiplies_bfloat16():
        return dict(arguments)
    logger.warning("This processor has no bfloat16 instructions: training runs in float32 instead of bf16.")
    return {**arguments, "bf16": False}
