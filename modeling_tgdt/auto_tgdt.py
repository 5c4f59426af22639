# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Make the Auto classes and pipelines of transformers find TGDT, and mark its classes as custom code for the Hub."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_tgdt import TGDTConfig
from .image_processing_pil_tgdt import TGDTImageProcessorPil
from .image_processing_tgdt import TGDTImageProcessor
from .modeling_tgdt import TGDTModel
from .pipeline_tgdt import TASK, ImageTextRetrievalPipeline
from .processing_tgdt import TGDTProcessor


def register() -> None:
    """Register every class with its Auto class, and the pipeline with its task. Called once, at import."""
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
