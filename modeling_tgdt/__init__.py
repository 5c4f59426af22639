# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT: two-stage image-text retrieval as a Hugging Face model package."""

from importlib import metadata as _metadata

from .auto_tgdt import register
from .configuration_tgdt import TGDTConfig
from .image_processing_pil_tgdt import TGDTImageProcessorPil
from .image_processing_tgdt import TGDTImageProcessor
from .index_tgdt import TGDTIndex
from .loss_tgdt import CMCLoss
from .modeling_tgdt import TGDTFeatures, TGDTModel, TGDTOutput
from .processing_tgdt import TGDTProcessor
from .retrieval_tgdt import AddReport, Alignment, Hit, Match, TGDTRetriever
from .retriever.hubness import HubnessOptions
from .similarity_tgdt import token_similarity, token_similarity_pairs

register()

try:
    __version__ = _metadata.version("tgdt")
except _metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

__all__ = [
    "AddReport",
    "Alignment",
    "CMCLoss",
    "Hit",
    "HubnessOptions",
    "Match",
    "TGDTConfig",
    "TGDTFeatures",
    "TGDTImageProcessor",
    "TGDTImageProcessorPil",
    "TGDTIndex",
    "TGDTModel",
    "TGDTOutput",
    "TGDTProcessor",
    "TGDTRetriever",
    "token_similarity",
    "token_similarity_pairs",
]
