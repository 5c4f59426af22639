# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Make the Auto classes of transformers find TGDT, and mark its classes as custom code for the Hub."""

from transformers import AutoConfig, AutoModel

from .configuration_tgdt import TGDTConfig
from .modeling_tgdt import TGDTModel


def register() -> None:
    """Register every class with its Auto class. Called once, when the package is imported."""
    AutoConfig.register("tgdt", TGDTConfig, exist_ok=True)
    AutoModel.register(TGDTConfig, TGDTModel, exist_ok=True)
    TGDTConfig.register_for_auto_class("AutoConfig")
    TGDTModel.register_for_auto_class("AutoModel")
