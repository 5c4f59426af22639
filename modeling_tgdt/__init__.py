# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT: two-stage image-text retrieval as a Hugging Face model package."""

from .auto_tgdt import register
from .configuration_tgdt import TGDTConfig
from .loss_tgdt import CMCLoss
from .modeling_tgdt import TGDTFeatures, TGDTModel, TGDTOutput
from .similarity_tgdt import token_similarity, token_similarity_pairs

register()

__all__ = [
    "CMCLoss",
    "TGDTConfig",
    "TGDTFeatures",
    "TGDTModel",
    "TGDTOutput",
    "token_similarity",
    "token_similarity_pairs",
]
