# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Convert checkpoints of the authors' code (LCFractal/TGDT) to [`TGDTModel`]."""

import argparse
import json
import pickle
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, PreTrainedConfig
from transformers.utils import logging

from .configuration_tgdt import TGDTConfig
from .modeling_tgdt import TGDTModel

logger = logging.get_logger(__name__)

_PREFIX = "img_txt_enc."
_ENCODERS = {
    "img_enc.transformer_encoder": "region_encoder",
    "transformer_encoder_1": "text_local_encoder",
    "transformer_encoder_2": "vision_local_encoder",
    "transformer_encoder_text": "text_global_encoder",
    "transformer_encoder_img": "vision_global_encoder",
}
_LINEARS = {
    "img_enc.pos_encoding_image.map.0": "region_embedding.fc1",
    "img_enc.pos_encoding_image.map.2": "region_embedding.fc2",
    "img_proj": "visual_projection",
    "cap_proj": "text_projection",
}
_LAYER_PARTS = {
    "self_attn.out_proj": "self_attn.out_proj",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
}
_DEAD_WEIGHTS = {
    r"img_txt_enc\.txt_enc\.bert_model\.pooler\..*": "BERT pooler: its output is never read",
    r"img_txt_enc\.txt_enc\.bert_model\.embeddings\.position_ids": "constant 0..n-1, not a weight",
    r"img_txt_enc\.txt_enc\.word_embeddings\.weight": "second name of the BERT word embeddings",
    r"img_txt_enc\.txt_enc\.map\..*": "mean-pooled caption projection: its output is discarded",
    r"img_txt_enc\.img_enc\.fc\..*": "mean-pooled image projection: its output is discarded",
    r"img_txt_enc\.(text|img)_agg_emb\..*": "aggregation perceptron: used by no released setting",
    r"(img|cap)_first_emb\..*": "first-token projection: never called",
}
_LAYER_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<encoder>.+)\.layers\.(?P<layer>\d+)\.(?P<part>.+)")


@dataclass
class ConversionReport:
    """Where every tensor of the source went.

    Attributes:
        used: Source name to the names that it became.
        unused: Source name to the reason why nothing needs it.
    """

    used: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


def convert_checkpoint(
    path: str | Path, output_dir: str | Path | None = None, text_config: PreTrainedConfig | dict | None = None
) -> TGDTModel:
    """Convert a checkpoint of the reference code.

    The model gives what the reference gives for each sample on its own: its arithmetic, scale and word trimming. Set
    `model.config.padding_mode = "reference"` to reproduce its batched outputs, in which padding takes part, and
    `model.config.token_source = "global"` for the tokens that it trains on.

    Args:
        path: `*.pth.tar` as saved by the authors' `train.py`, or the same tensors as safetensors.
        output_dir: Where to save the model and `conversion_report.json`; nothing is written when omitted.
        text_config: Configuration of the text encoder. Needed when BERT's heads are not 64 wide.

    Returns:
        The model in evaluation mode and float32.

    Raises:
        FileNotFoundError: When `path` does not exist.
        ValueError: When the file is not a TGDT checkpoint: a tensor is unknown, missing or of another shape.
    """
    state, report = convert_state_dict(read_tensors(path))
    config = infer_config(state, text_config)
    model = TGDTModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        raise ValueError(f"{path} does not fit a TGDT model: {'; '.join(sorted(problems)[:5])}.")
    model.load_state_dict(state)
    logger.info("Converted %s: %d tensors used, %d unused.", path, len(report.used), len(report.unused))
    if output_dir is not None:
        model.save_pretrained(output_dir)
        Path(output_dir, "conversion_report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return model.eval()


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint in float32 without running anything that the file holds.

    Args:
        path: A safetensors file, or a `torch.save` file (zip or the older format) with the tensors under `"model"`.

    Raises:
        FileNotFoundError: When `path` does not exist.
        ValueError: When the file is neither, or asks for Python objects beyond tensors and `argparse.Namespace`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No checkpoint at {path}. Expected a *.pth.tar or *.safetensors file.")
    content: Any
    try:
        if Path(path).suffix == ".safetensors":
            content = load_file(path)
        else:
            # weights_only: the restricted unpickler of PyTorch refuses everything but tensors and plain containers;
            # the authors' files also hold their command-line options in a Namespace, which is plain data.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable TGDT checkpoint: {reason}") from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    tensors = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no state dict: expected named tensors, at the top or under the key 'model'.")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def convert_state_dict(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the reference's tensors, split its packed attention weights and drop what nothing reads.

    Args:
        tensors: The reference's state dict.

    Returns:
        The state dict of [`TGDTModel`] and the account of every source tensor.

    Raises:
        ValueError: When a tensor is not known, or the duplicate of the word embeddings differs from the original.
    """
    state: dict[str, Tensor] = {}
    report = ConversionReport()
    unknown = []
    for name, tensor in tensors.items():
        reason = next((why for pattern, why in _DEAD_WEIGHTS.items() if re.fullmatch(pattern, name)), None)
        if reason is not None:
            report.unused[name] = reason
            continue
        converted = _convert_tensor(name, tensor)
        if not converted:
            unknown.append(name)
        state |= converted
        report.used[name] = list(converted)
    if unknown:
        raise ValueError(
            f"Not a TGDT checkpoint: {len(unknown)} of {len(tensors)} tensors are unknown, such as {unknown[:3]}. "
            "Expected the state dict that the authors' train.py saves under 'model'."
        )
    duplicate = tensors.get(f"{_PREFIX}txt_enc.word_embeddings.weight")
    original = state.get("text_model.embeddings.word_embeddings.weight")
    if duplicate is not None and (original is None or not torch.equal(duplicate, original)):
        raise ValueError("txt_enc.word_embeddings.weight differs from the BERT word embeddings that it should repeat.")
    return state, report


def _convert_tensor(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the new names and values of one tensor; nothing when the name is unknown."""
    bert = f"{_PREFIX}txt_enc.bert_model."
    if name.startswith(bert):
        return {f"text_model.{name.removeprefix(bert)}": tensor}
    match = _LAYER_KEY.fullmatch(name)
    if match and match["encoder"] in _ENCODERS:
        layer = f"{_ENCODERS[match['encoder']]}.layers.{match['layer']}"
        if match["part"] in ("self_attn.in_proj_weight", "self_attn.in_proj_bias"):
            kind = match["part"].rsplit("_", 1)[1]
            parts = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{layer}.self_attn.{which}_proj.{kind}": part.clone() for which, part in parts}
        part, _, kind = match["part"].rpartition(".")
        return {f"{layer}.{_LAYER_PARTS[part]}.{kind}": tensor} if part in _LAYER_PARTS else {}
    module, _, kind = name.removeprefix(_PREFIX).rpartition(".")
    return {f"{_LINEARS[module]}.{kind}": tensor} if module in _LINEARS else {}


def infer_config(state: dict[str, Tensor], text_config: PreTrainedConfig | dict | None = None) -> TGDTConfig:
    """Read the architecture off the shapes of a converted state dict.

    Args:
        state: State dict under the names of [`TGDTModel`].
        text_config: Configuration of the text encoder; its depth is taken from the tensors.

    Raises:
        ValueError: When tensors that tell the shape are missing, or BERT's number of heads cannot be told.
    """
    try:
        dim, region_size = state["visual_projection.weight"].shape
        intermediate_size = len(state["text_global_encoder.layers.0.fc1.bias"])
        bert = _infer_bert(state, text_config)
    except KeyError as error:
        raise ValueError(f"Expected a whole TGDT checkpoint, found no tensor to make {error.args[0]!r} of.") from error
    return TGDTConfig(
        text_config=bert,
        region_feature_size=region_size,
        projection_dim=dim,
        num_region_layers=_num_layers(state, "region_encoder.layers"),
        num_local_layers=_num_layers(state, "text_local_encoder.layers"),
        num_global_layers=_num_layers(state, "text_global_encoder.layers"),
        share_local_encoder=_num_layers(state, "vision_local_encoder.layers") == 0,
        intermediate_size=intermediate_size,
        image_global_token="zeros",
        detach_global_encoder=True,
        num_suffix_tokens=2,
        similarity_reduction="sum",
        similarity_scale=10.0,
        encoder_layer_type="post_norm",
        box_encoding="concat",
        objective="hinge",
        margin=0.2,
        local_margin=0.2,
    )


def _infer_bert(state: dict[str, Tensor], text_config: PreTrainedConfig | dict | None) -> PreTrainedConfig:
    layers = _num_layers(state, "text_model.encoder.layer")
    if text_config is not None:
        fields = text_config if isinstance(text_config, dict) else text_config.to_dict()
        return BertConfig(**{**fields, "num_hidden_layers": layers})
    embeddings = "text_model.embeddings"
    vocab_size, hidden_size = state[f"{embeddings}.word_embeddings.weight"].shape
    if hidden_size % 64:
        raise ValueError(
            f"Expected a text encoder whose width is a multiple of 64, found {hidden_size}. Pass text_config="
            "BertConfig(num_attention_heads=..., ...), or --text-model on the command line."
        )
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=len(state["text_model.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(state[f"{embeddings}.position_embeddings.weight"]),
        type_vocab_size=len(state[f"{embeddings}.token_type_embeddings.weight"]),
    )


def _num_layers(state: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return len({match[1] for match in map(pattern.match, state) if match})


__all__ = ["ConversionReport", "convert_checkpoint", "convert_state_dict", "infer_config", "read_tensors"]
