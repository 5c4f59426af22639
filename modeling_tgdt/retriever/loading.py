# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A model and its processor by one name, whether it is a TGDT model or a pretrained dual encoder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..backbones_tgdt import split_loading_options
from ..dual_encoders_tgdt import FAMILIES
from ..gallery.plain_files import check_tree
from ..modeling_tgdt import TGDTModel
from ..processing_tgdt import TGDTProcessor
from ..runtimes.onnx import FOLDER as ONNX_FOLDER
from ..runtimes.onnx import OnnxModel, has_onnx
from .adapters import base_of_adapter


def load_pretrained(name_or_path: str, **options: Any) -> tuple[TGDTModel, TGDTProcessor]:
    """Load a TGDT model, or take a dual encoder (CLIP, SigLIP, ...) up as one, with its processor.

    Args:
        name_or_path: Hub id or directory; its configuration says what it is. The directory of an adapter of PEFT
            without a processor takes that of the model that it adapts.
        **options: Of `TGDTModel.from_pretrained`, such as `dtype`, `token` and `revision`. Fields of a TGDTConfig
            (`config` for a TGDT model) change the model.

    Raises:
        ValueError: When it is neither.
    """
    with refused_as_damaged(str(name_or_path)):
        return _load(str(name_or_path), options)


def load_backend(folder: Path, backend: str | None, **options: Any) -> tuple[Any, TGDTProcessor]:
    """Load a model for a runtime, with its processor.

    Args:
        folder: Directory of the model.
        backend: "torch", "onnx", or None: what the directory holds, and PyTorch where it holds both.
        **options: Of `load_pretrained`.

    Raises:
        ValueError: For another backend, options that ONNX graphs cannot follow, or a link among the graphs.
    """
    if backend not in (None, "torch", "onnx"):
        raise ValueError(f"backend must be 'torch' or 'onnx', found {backend!r}.")
    if backend == "torch" or (backend is None and (not has_onnx(folder) or any(folder.glob("*.safetensors")))):
        return load_pretrained(str(folder), **options)
    if unused := sorted(options.keys() - {"token", "cache_dir", "local_files_only", "force_download"}):
        raise ValueError(
            f"The ONNX graphs in {str(folder)!r} do not take {unused}. Load the model with backend='torch'."
        )
    check_tree(folder, ONNX_FOLDER)  # what is loaded is copied and pushed, too
    with refused_as_damaged(str(folder)):
        return OnnxModel(folder), TGDTProcessor.from_pretrained(folder)


@contextmanager
def refused_as_damaged(name_or_path: str) -> Iterator[None]:
    """Raise ValueError for whatever the readers of a damaged model's files raise: they raise nearly every type."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"Expected a model that loads in {name_or_path!r}, found {type(error).__name__}: {error}. Save it again, "
            "or download it again."
        ) from error


def _load(name_or_path: str, options: dict[str, Any]) -> tuple[TGDTModel, TGDTProcessor]:
    loading, _ = split_loading_options(options)
    base = base_of_adapter(Path(name_or_path))
    if base is not None:
        source = name_or_path if Path(name_or_path, "processor_config.json").exists() else base
        return TGDTModel.from_pretrained(name_or_path, **options), TGDTProcessor.from_pretrained(source, **loading)
    if is_dual_encoder(name_or_path, **loading):
        return (
            TGDTModel.from_dual_encoder_pretrained(name_or_path, **options),
            TGDTProcessor.from_dual_encoder_pretrained(name_or_path, **loading),
        )
    return TGDTModel.from_pretrained(name_or_path, **options), _processor_of(name_or_path, **loading)


def is_dual_encoder(name_or_path: str, **loading: Any) -> bool:
    """Tell whether a directory or repository holds a dual encoder that can be taken up."""
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **loading)
    return config.get("model_type") in FAMILIES


def _processor_of(name_or_path: str, **loading: Any) -> TGDTProcessor:
    try:
        return TGDTProcessor.from_pretrained(name_or_path, **loading)
    except (OSError, ValueError, TypeError) as error:
        files = [Path(name_or_path, f"{kind}_config.json") for kind in ("processor", "preprocessor")]
        if not os.path.isdir(name_or_path) or any(file.exists() for file in files):
            raise
        raise ValueError(
            f"Expected a processor beside the model in {name_or_path!r}, found none. Save it there with "
            "processor.save_pretrained, as CMCTrainer.save_model does."
        ) from error


__all__ = ["is_dual_encoder", "load_backend", "load_pretrained"]
