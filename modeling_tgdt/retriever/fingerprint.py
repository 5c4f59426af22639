# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which model made an embedding: a fingerprint of its weights, and the check of a gallery against it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import torch

from ..index_tgdt import TGDTIndex

_MARK = "weights."
_PRECISIONS = (torch.bfloat16, torch.float16)
# What torch.compile, FSDP, DDP and PEFT put in front of the names of weights.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|module|base_model\.model)\.")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def weights_fingerprint(model: torch.nn.Module, precision: torch.dtype = torch.bfloat16) -> str:
    """Hash all weights, 16 hexadecimal digits.

    Weights are rounded to bfloat16 first, so a model loaded in float32 and in bfloat16 has one fingerprint.

    Args:
        model: Any model.
        precision: Data type to round to instead. Rounded twice, from float32 to float16 to bfloat16, weights are not
            those rounded once: a model loaded in float16 has the float16 fingerprint of the float32 model only.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(_plain_state(model).items()):
        value = value.to(precision) if value.is_floating_point() else value
        digest.update(f"{name}{tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_state(model: torch.nn.Module) -> int:
    """Return a number that changes when weights are changed in place, replaced or moved; nothing is read."""
    state = ((value.data_ptr(), 0 if value.is_inference() else value._version) for value in model.parameters())
    return hash(tuple(state))


def model_identity(model: Any) -> tuple[str | None, str]:
    """Return what a gallery records of its model: id and revision.

    The id is the Hub's, or the name of a local directory. The revision is the commit, where it is known, and the
    weights' fingerprints in bfloat16 and float16, such as `3f1c...+weights.0123456789abcdef.fedcba9876543210`; a model
    in one of these two has that fingerprint only.

    Args:
        model: TGDTModel.
    """
    if (recorded := getattr(model, "recorded_identity", None)) is not None:  # of a runtime without weights
        return recorded
    name, commit = str(model.name_or_path or ""), getattr(model.config, "_commit_hash", None)
    parts = os.path.normpath(name).split(os.sep)
    if "snapshots" in parts[-2:-1] and _COMMIT.fullmatch(parts[-1]):  # a directory of the Hub's cache
        name, commit = parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    elif os.path.isdir(name):
        name = os.path.basename(os.path.abspath(name))
    prints = [_fingerprint(model, precision) for precision in _PRECISIONS]
    fingerprint = _MARK + ".".join(prints).rstrip(".")
    return name or None, f"{commit}+{fingerprint}" if commit else fingerprint


def check_gallery_model(index: TGDTIndex, model: Any) -> None:
    """Refuse a gallery whose embeddings another model made.

    Fingerprints of one precision are compared; where there are none, such as between a model in bfloat16 and one in
    float16, ids and commits are.

    Args:
        index: The gallery.
        model: The model that is to search it.

    Raises:
        ValueError: With both models' names and the ways out.
    """
    if index.dim != model.config.projection_dim:
        raise index.refusal(f"embeddings of length {index.dim}", f"a model that makes {model.config.projection_dim}")
    recorded_id, recorded = index.settings["model_id"], index.settings["model_revision"] or ""
    name, revision = model_identity(model)
    (recorded_commit, recorded_prints), (commit, prints) = _parts(recorded), _parts(revision)
    pairs: list[Any] = [pair for pair in zip(recorded_prints, prints, strict=False) if all(pair)]
    pairs = pairs or [(recorded_id, name), (recorded_commit, commit)]
    if any(recorded_value != value for recorded_value, value in pairs if recorded_value and value):
        raise index.refusal(f"model {recorded_id!r}, revision {recorded!r}", f"model {name!r}, revision {revision!r}")


def _fingerprint(model: Any, precision: torch.dtype) -> str:
    """Return the fingerprint in a precision, or nothing where the weights are quantized or rounded to another one."""
    rounded = model.dtype in _PRECISIONS and model.dtype != precision
    return "" if rounded or is_quantized(model) else weights_fingerprint(model, precision)


def is_quantized(model: Any) -> bool:
    """Tell whether the weights are no longer those that were trained, by transformers' quantizers or by PyTorch's."""
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        return True
    return any("quantized" in type(module).__module__ for module in model.modules())


def _plain_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights by the names that they are saved under, however the model is wrapped or offloaded."""
    state = model.state_dict()
    if any(value.is_meta for value in state.values() if isinstance(value, torch.Tensor)):
        from accelerate.utils.modeling import get_state_dict_offloaded_model  # weights wait on disk or in memory

        state = get_state_dict_offloaded_model(model)
    return {_WRAPPERS.sub("", name): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _parts(revision: str) -> tuple[str, list[str]]:
    """Split a revision into the commit and the fingerprint of each precision, empty where unknown."""
    commit, _, prints = revision.partition(_MARK)
    return commit.rstrip("+"), prints.split(".")


__all__ = ["check_gallery_model", "model_identity", "weights_fingerprint"]
