# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Pretrained dual encoders of transformers (CLIP, SigLIP, ...): what differs between families, and how they load.

Of most encoders a part is kept: loading says nothing about what is dropped on purpose, and refuses what is missing.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class DualEncoder:
    """Where a family keeps what stands on top of its towers; `None` for what it does not have.

    Attributes:
        visual_projection: Linear map of pooled images, a dotted name.
        text_projection: Linear map of pooled texts, a dotted name.
        scale: Parameter that scales the cosines: a logarithm, or `"temperature"`, which divides them.
        bias: Parameter that is added to the scaled cosines.
    """

    visual_projection: str | None = "visual_projection"
    text_projection: str | None = "text_projection"
    scale: str = "logit_scale"
    bias: str | None = None


@dataclass(frozen=True)
class Tower:
    """How a tower pools its last hidden state.

    Attributes:
        pools: Whether it gives a pooled output; without one the first position counts.
        head: Module that only the pooled output passes through. Every token passes through it alone, which brings it
            to where the projection expects its input.
        width: Field of its configuration that holds the width of its output.
        has_fixed_length: Whether padding has its place in every text, so that it is never moved out of the way.
    """

    pools: bool = True
    head: str | None = None
    width: str = "hidden_size"
    has_fixed_length: bool = False


_SIGLIP = DualEncoder(None, "text_model.head", bias="logit_bias")
FAMILIES = {
    "aimv2": DualEncoder(),
    "align": DualEncoder(visual_projection=None, scale="temperature"),
    "altclip": DualEncoder(),
    "chinese_clip": DualEncoder(),
    "clip": DualEncoder(),
    "metaclip_2": DualEncoder(),
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
    "tipsv2": DualEncoder(None, None, scale="temperature"),
    "vision-text-dual-encoder": DualEncoder(),
}
_CLIP_VISION = Tower(head="post_layernorm")
_ATTENTION_POOLED = Tower(head="head")
_TOWERS = {
    "aimv2_vision_model": _ATTENTION_POOLED,
    "align_text_model": Tower(pools=False),
    "altclip_text_model": Tower(pools=False, width="project_dim"),
    "altclip_vision_model": _CLIP_VISION,
    "chinese_clip_text_model": Tower(pools=False),
    "chinese_clip_vision_model": _CLIP_VISION,
    "clip_vision_model": _CLIP_VISION,
    "convnext": Tower(head="layernorm"),
    "convnextv2": Tower(head="layernorm"),
    "metaclip_2_vision_model": _CLIP_VISION,
    "siglip2_text_model": Tower(has_fixed_length=True),
    "siglip2_vision_model": _ATTENTION_POOLED,
    "siglip_text_model": Tower(has_fixed_length=True),
    "siglip_vision_model": _ATTENTION_POOLED,
}
_PARTS = ("vision_model", "text_model")
# Norm, value and output projection of a layer's attention, in the families that have such a path.
_VALUE_PATHS = (
    ("layer_norm1", "self_attn.v_proj", "self_attn.out_proj"),
    ("layernorm_before", "attention.v_proj", "attention.o_proj"),
)
# BERT, ViT and their kin pool the first position with this module.
_DEFAULT = Tower(head="pooler")


def tower_traits(config: PreTrainedConfig) -> Tower:
    """Return how a tower pools, by its configuration."""
    return _TOWERS.get(config.model_type, _DEFAULT)


def text_width(config: PreTrainedConfig) -> int:
    """Return the width of a text tower's last hidden state."""
    return int(getattr(config, tower_traits(config).width))


def pooled_state(outputs: Any, config: PreTrainedConfig) -> Tensor:
    """Return what a tower pools to, (B, H), before the projection.

    Args:
        outputs: Of the tower.
        config: Of the tower.

    Raises:
        ValueError: When the tower pools nothing.
    """
    if not tower_traits(config).pools:
        return outputs.last_hidden_state[:, 0]
    pooled = outputs.get("pooler_output")
    if pooled is None:
        raise ValueError(
            f"Expected a pooled output of the {config.model_type!r} tower, found none. The global token 'pooled' is "
            "for towers of a dual encoder (TGDTModel.from_dual_encoder_pretrained). Choose 'mean'."
        )
    return pooled.flatten(1)  # convolutional towers keep two axes of one cell


def value_layer(tower: PreTrainedModel | None) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the norm, value and output projection of a vision tower's last attention.

    Raises:
        ValueError: When it has no such path.
    """
    layers: Any = getattr(getattr(tower, "encoder", tower), "layers", None)
    for names in _VALUE_PATHS if isinstance(layers, nn.ModuleList) and len(layers) else ():
        modules = [module for module in map(dict(layers[-1].named_modules()).get, names) if module is not None]
        if len(modules) == len(names):
            return modules[0], modules[1], modules[2]
    raise ValueError(
        "token_readout='value' reads the last attention of a vision encoder that is built like CLIP's or ViT's, found "
        f"{'none' if tower is None else type(tower).__name__}. Choose 'head' or 'last'."
    )


def value_tokens(tower: PreTrainedModel, states: Tensor) -> Tensor:
    """Return what the last attention would give to tokens (B, T, H) that attend to themselves alone.

    As MaskCLIP (arXiv 2112.01071) reads patches; without the residual and the perceptron behind, which ClearCLIP
    (arXiv 2407.12442) found to be noise for them.

    Args:
        tower: A vision tower.
        states: Input of its last layer.
    """
    norm, value, output = value_layer(tower)
    tokens = output(value(norm(states)))
    final = next((name for name in ("post_layernorm", "layernorm") if hasattr(tower, name)), None)
    return tokens if final in (None, tower_traits(tower.config).head) else getattr(tower, final)(tokens)


def head_tokens(tower: PreTrainedModel, tokens: Tensor, readout: str = "head") -> Tensor:
    """Bring tokens (B, T, H) to the space of the pooled output: each passes alone through what only that passes.

    Of an attention pooling (SigLIP) this is the value path and the perceptron: attention over one token has no choice.

    Args:
        tower: A whole tower of a dual encoder.
        tokens: Part of its last hidden state.
        readout: With `"last"` they pass through a final norm, but through no pooling.
    """
    head: Any = getattr(tower, tower_traits(tower.config).head or "", None)
    if not isinstance(head, nn.Module) or not list(head.parameters()):
        return tokens
    if isinstance(head, nn.LayerNorm):
        return head(tokens)
    if readout == "last":
        return tokens
    return head(tokens.reshape(-1, 1, tokens.shape[-1])).view(*tokens.shape[:2], -1)


def load_whole(loader: Any, name_or_path: str, **options: Any) -> PreTrainedModel:
    """Load a model whose heads and poolers may be absent from its files, or have no place in it.

    Args:
        loader: Class with `from_pretrained`.
        name_or_path: Hub id or directory.
        **options: Of `from_pretrained`.

    Returns:
        The model. It and its towers have an attribute `absent_weights`, the names of those that are new and random;
        see `absent_weights`.
    """
    with _held_report():
        model, info = loader.from_pretrained(name_or_path, output_loading_info=True, **options)
    absent = {name if isinstance(name, str) else name[0] for name in info["missing_keys"]}
    model.absent_weights = absent
    for tower in _PARTS:
        if isinstance(getattr(model, tower, None), PreTrainedModel):
            getattr(model, tower).absent_weights = {
                name.removeprefix(f"{tower}.") for name in absent if name.startswith(f"{tower}.")
            }
    return model


def absent_weights(model: Any) -> set[str]:
    """Return which weights of a model that `load_whole` gave were in none of its files."""
    return set(getattr(model, "absent_weights", ()))


@contextlib.contextmanager
def _held_report() -> Iterator[None]:
    """Hold transformers' report of a load back; where the load fails it is what the error refers to, and shown."""
    logger, held = logging.getLogger("transformers.modeling_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in record.getMessage()
        held.extend([record] if is_report else [])
        return not is_report

    logger.addFilter(hold)
    try:
        yield
        held.clear()
    finally:
        logger.removeFilter(hold)
        for record in held:
            logger.handle(record)


def load_dual_encoder(
    name_or_path: str, dtype: torch.dtype | str, **options: Any
) -> tuple[PreTrainedModel, DualEncoder]:
    """Load a pretrained dual encoder, and what its family keeps where.

    Args:
        name_or_path: Hub id or directory.
        dtype: Data type of the weights.
        **options: Of `PreTrainedModel.from_pretrained`, such as `token` and `revision`.

    Raises:
        ValueError: When it is none of the known families, or its files lack a projection or its scale.
    """
    source = load_whole(AutoModel, name_or_path, dtype=dtype, **{"trust_remote_code": False, **options})
    family = family_of(source.config, name_or_path)
    used = (family.visual_projection, family.text_projection, family.scale, family.bias)
    absent = [name for name in sorted(absent_weights(source)) if name.startswith(tuple(filter(None, used)))]
    if absent:
        raise ValueError(
            f"Expected all weights of a dual encoder in {name_or_path!r}, found {', '.join(absent)} missing. Save it "
            "whole, or put a new model on its towers with TGDTModel.from_vision_text_pretrained and train it."
        )
    return source.eval(), family


def family_of(config: PreTrainedConfig, name_or_path: str) -> DualEncoder:
    """Return the traits of a dual encoder's family.

    Raises:
        ValueError: When the configuration is none of a dual encoder's.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"Expected a dual encoder ({', '.join(FAMILIES)}), found {name_or_path!r} of type {config.model_type!r}. "
            "Put a new model on two encoders with TGDTModel.from_vision_text_pretrained(vision, text) and train it."
        )
    return FAMILIES[config.model_type]


def check_model_type(name_or_path: Any, expected: str, **loading: Any) -> None:
    """Refuse a directory or repository of another kind of model, whose weights would be taken for none.

    Args:
        name_or_path: Hub id or directory.
        expected: The type that its configuration should name.
        **loading: Options of `PreTrainedConfig.get_config_dict`, such as `token` and `revision`.

    Raises:
        ValueError: When it names another one.
    """
    try:
        found = PreTrainedConfig.get_config_dict(name_or_path, **loading)[0].get("model_type", expected)
    except OSError:  # no configuration: transformers says what is missing
        return
    if found == expected:
        return
    way = (
        f"TGDTModel.from_dual_encoder_pretrained({str(name_or_path)!r})"
        if found in FAMILIES
        else "TGDTModel.from_vision_text_pretrained(vision, text) with two encoders, and train it"
    )
    raise ValueError(
        f"Expected a TGDT model in {str(name_or_path)!r}, found one of type {found!r}, whose weights have no place in "
        f"it. Use {way}."
    )


def dual_encoder_fields(source: PreTrainedModel, family: DualEncoder) -> dict[str, Any]:
    """Return the fields of a TGDTConfig that make a new model equal to a dual encoder.

    Args:
        source: The dual encoder.
        family: What it keeps where.
    """
    bias = None if family.bias is None else float(getattr(source, family.bias).detach())
    scale = float(getattr(source, family.scale).detach().float())
    scale = min(scale, getattr(source, "max_log_logit_scale", scale))
    image, text = (projection(source, name) for name in (family.visual_projection, family.text_projection))
    widths = [layer.out_features for layer in (image, text) if layer is not None]
    return {
        "projection_dim": widths[0] if widths else text_width(source.config.text_config),
        "image_global_token": "pooled",
        "text_global_token": "pooled",
        "encoder_layer_type": "residual",
        "box_encoding": "sum",
        "box_initializer_range": 0.0,
        "global_score_weight": 1.0,
        "local_score_weight": 0.0,
        "temperature": scale if family.scale == "temperature" else float(torch.tensor(-scale).exp()),
        "objective": "infonce" if bias is None else "sigmoid",
    } | ({} if bias is None else {"sigmoid_bias": bias})


def projection(source: PreTrainedModel, name: str | None) -> nn.Linear | None:
    """Return a projection of a dual encoder by its dotted name."""
    return None if name is None else source.get_submodule(name)  # type: ignore[return-value]


@torch.no_grad()
def copy_projection(source: nn.Linear | None, target: nn.Linear) -> None:
    """Set a projection to that of a dual encoder, or to the identity where it has none."""
    if source is None:
        nn.init.eye_(target.weight)
    else:
        target.weight.copy_(source.weight)
    nn.init.zeros_(target.bias)
    if source is not None and source.bias is not None:
        target.bias.copy_(source.bias)


__all__ = [
    "FAMILIES",
    "DualEncoder",
    "absent_weights",
    "Tower",
    "check_model_type",
    "copy_projection",
    "dual_encoder_fields",
    "family_of",
    "head_tokens",
    "load_dual_encoder",
    "load_whole",
    "pooled_state",
    "projection",
    "text_width",
    "tower_traits",
    "value_layer",
    "value_tokens",
]
