# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT: two-stage image-text retrieval as a Hugging Face model package."""

import sys as _sys
from importlib import metadata as _metadata

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_tgdt import TGDTConfig
from .gallery import storage as _storage
from .image_processing_pil_tgdt import TGDTImageProcessorPil
from .image_processing_tgdt import TGDTImageProcessor
from .index_tgdt import TGDTIndex
from .loss_tgdt import CMCLoss
from .modeling_tgdt import TGDTFeatures, TGDTModel, TGDTOutput
from .pipeline_tgdt import TASK, ImageTextRetrievalPipeline
from .processing_tgdt import TGDTProcessor
from .retrieval_tgdt import AddReport, Alignment, ComposedQuery, Hit, Match, ScoreThreshold, TGDTRetriever
from .retriever.hubness import HubnessOptions
from .similarity_tgdt import token_similarity, token_similarity_pairs


def _register() -> None:
    """Make transformers' Auto classes and pipelines find TGDT; mark its classes as custom code for the Hub."""
    image_processors: dict[str, type] = {"pil": TGDTImageProcessorPil, "torchvision": TGDTImageProcessor}
    AutoConfig.register("tgdt", TGDTConfig, exist_ok=True)
    AutoModel.register(TGDTConfig, TGDTModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(TGDTConfig, TGDTModel, exist_ok=True)
    AutoImageProcessor.register(TGDTConfig, image_processor_classes=image_processors, exist_ok=True)
    AutoProcessor.register(TGDTConfig, TGDTProcessor, exist_ok=True)
    TGDTConfig.register_for_auto_class("AutoConfig")
    TGDTModel.register_for_auto_class("AutoModel")
    TGDTImageProcessor.register_for_auto_class("AutoImageProcessor")
    TGDTImageProcessorPil.register_for_auto_class("AutoImageProcessor")
    TGDTProcessor.register_for_auto_class("AutoProcessor")
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(TASK, ImageTextRetrievalPipeline, pt_model=AutoModel, type="multimodal")


_register()
_sys.modules[f"{__name__}.storage_tgdt"] = _storage  # the name that it had before it got a room

try:
    __version__ = _metadata.version("tgdt")
except _metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

__all__ = [
    "AddReport",
    "Alignment",
    "CMCLoss",
    "ComposedQuery",
    "Hit",
    "HubnessOptions",
    "Match",
    "ScoreThreshold",
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
