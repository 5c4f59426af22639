# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Adapters of PEFT on a retriever's model: saved beside the weights they adapt, so that the directory stands alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..gallery.plain_files import is_downloaded, is_on_a_network
from ..modeling_tgdt import TGDTModel

ADAPTER_CONFIG = "adapter_config.json"
_KEPT = (".base_layer.", ".original_module.")  # where adapted modules hold the weights that they had
_CARD = "README.md"


def save_model(model: Any, folder: Path, **options: Any) -> None:
    """Save a model with the adapter that it may carry; `TGDTModel.from_pretrained` loads both again.

    A quantised model under an adapter is not saved: the adapter names it.

    Args:
        model: TGDTModel, maybe with a loaded adapter, or a PeftModel of it.
        folder: Made when missing.
        **options: Of `PreTrainedModel.save_pretrained`, such as `max_shard_size`.

    Raises:
        ValueError: When the active adapter of a PeftModel is not called "default".
    """
    wraps = hasattr(model, "get_base_model")
    if not wraps and not getattr(model, "_hf_peft_config_loaded", False):
        model.save_pretrained(folder, **options)
        return
    core = model.get_base_model() if wraps else model
    if wraps and model.active_adapter != "default":
        raise ValueError(f"Expected the adapter 'default' to be active, found {model.active_adapter!r}. Rename it.")
    if getattr(core, "hf_quantizer", None) is None:
        base = TGDTModel._from_config(core.config, dtype=core.dtype)
        base.load_state_dict(_base_weights(core))
        base.save_pretrained(folder, **options)
    card = folder / _CARD
    edited = card.exists()
    model.save_pretrained(folder)
    if wraps and not edited:
        card.unlink(missing_ok=True)  # PEFT's template says nothing of this model
    _forget_local_base(folder / ADAPTER_CONFIG)


def base_of_adapter(folder: Path) -> str | None:
    """Return the name or directory of the model that an adapter without weights of its own adapts.

    Args:
        folder: Directory of a model or an adapter.

    Raises:
        ValueError: When it names a network address, or was downloaded and names a path of this machine.
    """
    if (folder / "config.json").exists() or not (folder / ADAPTER_CONFIG).exists():
        return None
    base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base is not None and (is_on_a_network(base) or (is_downloaded(folder) and os.path.exists(base))):
        raise ValueError(
            f"The adapter in {str(folder)!r} names its model as {base!r}, which is no repository. Load the model "
            "that it adapts, and call its load_adapter."
        )
    return base


def _base_weights(core: Any) -> dict[str, Tensor]:
    """Return the weights of a model without what its adapters added."""
    weights = core.state_dict()
    adapted = {name.split(mark)[0] for name in weights for mark in _KEPT if mark in name}
    base = {}
    for name, value in weights.items():
        kept = next((mark for mark in _KEPT if mark in name), None)
        if kept is not None:
            base[name.replace(kept, ".")] = value
        elif not any(name.startswith(f"{module}.") for module in adapted):
            base[name] = value
    return base


def _forget_local_base(path: Path) -> None:
    """Leave a directory of this machine out of an adapter's configuration, where the base lies beside it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if (path.parent / "config.json").exists() and os.path.isdir(content.get("base_model_name_or_path") or ""):
        content["base_model_name_or_path"] = None
        path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


__all__ = ["ADAPTER_CONFIG", "base_of_adapter", "save_model"]
