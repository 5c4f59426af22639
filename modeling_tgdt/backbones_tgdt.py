# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Text and vision encoders of transformers as parts of a TGDT model: building, loading, and reading their tokens."""

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, find_adapter_config_file

from .configuration_tgdt import LOADING_OPTIONS, TGDTConfig, backbone_width
from .dual_encoders_tgdt import absent_weights, head_tokens, load_whole, pooled_state, tower_traits, value_tokens

# Modules that only the pooled output passes through, by model type. Left in, they would never get a gradient.
_POOLED_ONLY = {
    "clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
    "metaclip_2_vision_model": "post_layernorm",
    "altclip_vision_model": "post_layernorm",
    "chinese_clip_vision_model": "post_layernorm",
}
# The projection of these text towers, which is `text_projection` here.
_PROJECTED = {"siglip_text_model": "head", "siglip2_text_model": "head"}
# What an encoder of timm runs behind its last hidden state.
_TIMM_HEADS = ("attn_pool", "fc_norm", "head")
# Towers whose positions see no later ones, where neither a module nor the configuration tells.
_CAUSAL = ("clip_text_model", "metaclip_2_text_model")
# Text encoders that count positions from the padding id on.
_OFFSET_POSITIONS = (
    "altclip_text_model", "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Tokens before the grid: a class token and one of distillation at most, or what these fields count.
_MOST_PREFIX_TOKENS = 2
_PREFIX_FIELDS = ("num_register_tokens", "num_registers", "num_cls_tokens", "n_cls_tokens")

# Adapters of PEFT that are weights and nothing else. An X-LoRA names others, for one.
_ADAPTERS = ("ADALORA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "OFT", "VERA")


def build_backbone(config: PreTrainedConfig, pooled: bool = False) -> PreTrainedModel:
    """Build an encoder without the weights that nothing here depends on, so that every parameter left has a gradient.

    Args:
        config: Configuration of a text or vision encoder.
        pooled: Whether its pooled output is used, beside its tokens.

    Raises:
        ValueError: When transformers has no encoder for it.
    """
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = pooled
    model_class = _model_class(config)
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    pools = pooled and tower_traits(config).pools
    model = model_class._from_config(config, **({"add_pooling_layer": pools} if takes_pooler else {}))
    unused = _PROJECTED if pooled else _PROJECTED | _POOLED_ONLY
    if config.model_type in unused:
        setattr(model, unused[config.model_type], nn.Identity())
    if config.model_type == "timm_wrapper":
        heads: Any = [name for name in _TIMM_HEADS if isinstance(getattr(model.timm_model, name, None), nn.Module)]
        for name in heads:
            setattr(model.timm_model, name, nn.Identity())
    for module in model.modules():
        if config.model_type == "aimv2_text_model" and hasattr(module, "is_causal"):
            module.is_causal = True  # transformers leaves the causal mask out where no text is padded
        token = module._parameters.pop("mask_token", None)  # of masked-image pre-training
        if token is not None:  # initialisation expects a tensor of that name
            module.register_buffer("mask_token", token.detach(), persistent=False)
    return model


def split_loading_options(options: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the options that say where and how files are loaded from all others, which are fields of a configuration.

    Args:
        options: Keyword arguments of a `from_*` method.
        prefix: What the names of the loading options start with, such as `"vision_"`.

    Returns:
        Loading options without the prefix, and the rest.

    Example:
        >>> split_loading_options({"token": "hf_...", "projection_dim": 8})
        ({'token': 'hf_...'}, {'projection_dim': 8})
    """
    loading = {prefix + name: name for name in LOADING_OPTIONS}
    picked = {loading[name]: value for name, value in options.items() if name in loading}
    return picked, {name: value for name, value in options.items() if name not in loading}


def load_tower(name_or_path: str, tower: str, dtype: torch.dtype | str, **loading: Any) -> PreTrainedModel:
    """Load a pretrained encoder, or one tower of a pretrained image-text model.

    Args:
        name_or_path: Hub id or directory.
        tower: `"text"` or `"vision"`.
        dtype: Data type of the weights.
        **loading: Options of `AutoModel.from_pretrained`, such as `token` and `revision`.

    Raises:
        ValueError: When an image-text model keeps that tower under another name than `text_model` or `vision_model`,
            or the encoder is of the other kind.
    """
    model = load_whole(AutoModel, name_or_path, dtype=dtype, **{"trust_remote_code": False, **loading})
    if model.config.model_type == "timm_wrapper":
        _describe_timm(model)
    if model.config.is_encoder_decoder and type(model.config) in AutoModelForTextEncoding._model_mapping:
        # of T5 and its kin the encoder alone
        return load_whole(AutoModelForTextEncoding, name_or_path, dtype=dtype, **loading)
    if not hasattr(model.config, f"{tower}_config"):
        if (model.main_input_name == "pixel_values") != (tower == "vision"):
            raise ValueError(
                f"Expected a {tower} encoder, found {name_or_path!r}, a {type(model).__name__} that reads "
                f"{model.main_input_name}. Name the vision encoder first and the text encoder second."
            )
        return model
    if not isinstance(getattr(model, f"{tower}_model", None), PreTrainedModel):
        raise ValueError(
            f"Expected {name_or_path!r} to hold a {tower} encoder as `{tower}_model`, found a {type(model).__name__} "
            f"without. Save its {tower} encoder by itself and pass that directory."
        )
    return getattr(model, f"{tower}_model")


def check_adapter(name: str, **loading: Any) -> None:
    """Refuse an adapter of PEFT that is more than weights.

    Args:
        name: Hub id or directory of the adapter.
        **loading: Options of `find_adapter_config_file`, such as `token` and `revision`.

    Raises:
        ValueError: When it is of a kind whose files name code or further models.
    """
    path = find_adapter_config_file(name, **loading)
    if path is None:
        return
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind not in _ADAPTERS or content.get("megatron_config") is not None:
        raise ValueError(
            f"Expected an adapter of a kind among {', '.join(_ADAPTERS)}, without megatron_config, in {name!r}, found "
            f"{kind!r}. Others may load code or models that their files name: where you trust them, use PEFT's own "
            "PeftModel.from_pretrained(model, ...)."
        )


def _describe_timm(model: Any) -> None:
    """Note in the configuration of an encoder of timm what that leaves out: width, patches, tokens before the grid."""
    timm_model, config = model.timm_model, model.config
    config.num_features, config.do_pooling = timm_model.num_features, False
    config.num_cls_tokens = getattr(timm_model, "num_prefix_tokens", 0)
    patches = getattr(timm_model, "patch_embed", None)
    if patches is not None:
        config.patch_size = list(patches.patch_size)


def is_causal(model: PreTrainedModel) -> bool:
    """Tell whether no position of a text encoder sees later ones, so that its first one knows no word."""
    return model.config.model_type in _CAUSAL or any(
        getattr(module, "is_causal", False) is True for module in model.modules()
    )


def text_positions(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a text encoder takes at most; `None` where its positions are relative.

    Args:
        config: Configuration of the text encoder.

    Example:
        >>> from transformers import RobertaConfig
        >>> text_positions(RobertaConfig(max_position_embeddings=514, pad_token_id=1))
        512
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return int(positions) - offset


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy every weight of `target` from `source`, which may hold more (its pooler or head).

    Args:
        source: A pretrained encoder.
        target: The same encoder in a TGDT model.

    Raises:
        ValueError: When a weight of `target` is absent from `source`, or from the files that it was loaded from.
    """
    unset = set(target.load_state_dict(source.state_dict(), strict=False).missing_keys)
    missing = sorted(unset | (absent_weights(source) & target.state_dict().keys()))
    if missing:
        raise ValueError(
            f"Expected all weights of the {type(target).__name__}, found {len(missing)} missing, such as "
            f"{', '.join(missing[:3])}. Save the encoder whole."
        )


def run_vision_backbone(model: PreTrainedModel, pixel_values: Tensor, **kwargs: Any) -> ModelOutput:
    """Run a vision encoder on images (B, C, H, W), with those of the options that it knows.

    Args:
        model: The encoder.
        pixel_values: Images (B, C, H, W).
        **kwargs: Options such as `output_hidden_states`.
    """
    parameters = inspect.signature(model.forward).parameters
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    pixel_values = pixel_values.to(model.dtype)
    if "spatial_shapes" in parameters and pixel_values.ndim == 4:
        pixel_values, inputs = _patches(pixel_values, model.config.patch_size)
        kwargs |= inputs
    return model(pixel_values=pixel_values, **(kwargs | {"return_dict": True}))


def read_regions(
    model: PreTrainedModel, config: TGDTConfig, pixel_values: Tensor, **kwargs: Any
) -> tuple[Tensor, Tensor, Tensor, ModelOutput]:
    """Run a vision encoder and read its tokens as regions.

    Args:
        model: The vision encoder.
        config: Configuration of the TGDT model that it is part of.
        pixel_values: Images (B, C, H, W), or their patches (B, R, P).
        **kwargs: Options such as `output_hidden_states`; `pixel_attention_mask` and `spatial_shapes` of patches.

    Returns:
        Features (B, R, F), boxes (B, R, 4), a mask (B, R), true for real regions, and all that the encoder gave. Where
        `image_global_token` is `"pooled"`, the first region is the whole image.
    """
    vision_config: Any = config.get_vision_config()
    reads_value = config.token_readout == "value"
    options = kwargs | ({"output_hidden_states": True} if reads_value else {})
    outputs: Any = run_vision_backbone(model, pixel_values, **options)
    hidden = value_tokens(model, outputs.hidden_states[-2]) if reads_value else outputs.last_hidden_state
    if pixel_values.ndim == 3:
        features, mask = hidden, kwargs["pixel_attention_mask"].bool()
        boxes = patch_boxes(kwargs["spatial_shapes"], features.shape[1])
    else:
        features, (rows, columns) = grid_tokens(hidden, pixel_values, vision_config)
        boxes = grid_boxes(rows, columns, device=features.device).repeat(features.shape[0], 1, 1)
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    boxes = boxes.to(features.dtype)
    if config.image_global_token == "pooled":
        whole = pooled_state(outputs, vision_config)[:, None]
        features = head_tokens(model, features, config.token_readout)
        features = torch.cat([whole, features], dim=1)
        boxes = torch.cat([boxes.new_tensor([0, 0, 1, 1]).expand(features.shape[0], 1, 4), boxes], dim=1)
        mask = F.pad(mask, (1, 0), value=True)
    if reads_value and not kwargs.get("output_hidden_states"):
        outputs = {**outputs, "hidden_states": None}  # nobody asked for them
    return features, boxes, mask, outputs


def read_words(
    model: PreTrainedModel, config: TGDTConfig, inputs: Mapping[str, Tensor | None], **kwargs: Any
) -> tuple[Tensor, Tensor | None, ModelOutput]:
    """Run a text encoder and read its hidden states.

    The encoder sees every text from its first position on: padding on the left would shift absolute positions.

    Args:
        model: The text encoder.
        config: Configuration of the TGDT model that it is part of.
        inputs: Its inputs (B, W, ...), `attention_mask` among them; those that are `None` are left out.
        **kwargs: Options such as `output_hidden_states`.

    Returns:
        Hidden states (B, W, H), what the encoder pools (B, H) or `None`, and all that it gave.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    text_config = config.get_text_config()
    shift = given["attention_mask"].bool().int().argmax(-1, keepdim=True)  # (B, 1), padding on the left
    if tower_traits(text_config).has_fixed_length:
        shift = torch.zeros_like(shift)
    given = {name: _turned(value, shift) for name, value in given.items()}
    given["attention_mask"] = _attended_somewhere(given["attention_mask"])
    outputs = model(**given, **(kwargs | {"return_dict": True}))
    hidden = _turned(outputs.last_hidden_state, -shift)
    if config.text_global_token != "pooled":
        return hidden, None, outputs
    return head_tokens(model, hidden), pooled_state(outputs, text_config), outputs


def _attended_somewhere(mask: Tensor) -> Tensor:
    """Let texts of no token attend to their first position: attention to nothing is not a number."""
    first = torch.arange(mask.shape[1], device=mask.device)[None] == 0
    return torch.where(mask.bool().any(-1, keepdim=True), mask, first.to(mask.dtype))


def _turned(values: Tensor, shift: Tensor) -> Tensor:
    """Return rows (B, W, ...) turned to the left by a shift (B, 1) above -W and below W."""
    width = values.shape[1]
    order = torch.arange(width, device=values.device) + shift
    order = torch.where(order < 0, order + width, order)  # no remainder: ONNX has none by a dynamic width
    order = torch.where(order >= width, order - width, order)
    if values.shape[0] != order.shape[0]:  # positions that all rows share
        values = values.expand(order.shape[0], *values.shape[1:])
    return values[torch.arange(order.shape[0], device=order.device)[:, None], order]


def grid_tokens(hidden: Tensor, pixel_values: Tensor, config: PreTrainedConfig) -> tuple[Tensor, tuple[int, int]]:
    """Return a backbone's spatial tokens (B, rows * columns, H) and their grid: prefix tokens are dropped.

    Args:
        hidden: Last hidden state (B, tokens, H) or feature map (B, H, rows, columns), of timm also (B, rows, columns,
            H).
        pixel_values: The images (B, C, height, width) it was computed from.
        config: Configuration of the backbone.

    Raises:
        ValueError: When the tokens are not a grid that follows from the configuration.
    """
    if hidden.ndim == 4:
        if config.model_type == "timm_wrapper" and hidden.shape[1] != backbone_width(config):
            hidden = hidden.permute(0, 3, 1, 2)
        return hidden.flatten(2).transpose(1, 2), (hidden.shape[2], hidden.shape[3])
    rows, columns = _grid(pixel_values, config)
    prefix = hidden.shape[1] - rows * columns
    most = _MOST_PREFIX_TOKENS + sum(getattr(config, name, None) or 0 for name in _PREFIX_FIELDS)
    if not 0 <= prefix <= most:
        raise ValueError(
            f"Expected a grid of {rows} x {columns} tokens after at most {most} others from the "
            f"{config.model_type!r} backbone, found {hidden.shape[1]} tokens. Choose an encoder whose last hidden "
            "state is a grid of patches, such as ViT, DINOv2, SigLIP, Swin or ConvNeXt."
        )
    return hidden[:, prefix:], (rows, columns)


def grid_boxes(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Return the boxes of a grid's cells in row-major order, (rows * columns, 4), xyxy in [0, 1].

    Args:
        rows: Cells along the height.
        columns: Cells along the width.
        device: Where the result lives.

    Example:
        >>> grid_boxes(1, 2).tolist()
        [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    y = torch.arange(rows, device=device).repeat_interleave(columns) / rows
    x = torch.arange(columns, device=device).repeat(rows) / columns
    return torch.stack([x, y, x + 1 / columns, y + 1 / rows], dim=-1)


def patch_boxes(shapes: Tensor, patches: int) -> Tensor:
    """Return the boxes of patches in row-major order, (B, patches, 4), xyxy in [0, 1], zero beyond an image's grid.

    Args:
        shapes: Rows and columns of each image's grid (B, 2).
        patches: Patches per image, padding included.

    Example:
        >>> patch_boxes(torch.tensor([[1, 2]]), 3).tolist()
        [[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]]
    """
    rows, columns = shapes[:, :1], shapes[:, 1:]
    number = torch.arange(patches, device=shapes.device)[None]
    y, x = number // columns, number % columns
    boxes = torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], dim=-1)
    return boxes.masked_fill((number >= rows * columns)[..., None], 0)


def _grid(pixel_values: Tensor, config: PreTrainedConfig) -> tuple[int, int]:
    """Return the rows and columns of a backbone's tokens."""
    height, width = pixel_values.shape[-2:]
    if config.model_type == "dinov3_convnext":  # a ConvNeXt whose configuration names no patch size
        stride = 4 * 2 ** (len(config.depths) - 1)
        return height // stride, width // stride
    patch = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    if patch is None:
        raise ValueError(
            f"Expected a patch_size in the configuration of the vision encoder, found none in type "
            f"{config.model_type!r}. Choose another encoder, such as ViT, DINOv2, SigLIP, Swin or ConvNeXt."
        )
    patch = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    depths = getattr(config, "depths", None)
    halvings = len(depths) - 1 if isinstance(depths, (list, tuple)) else 0
    rows, columns = height // patch[0], width // patch[1]
    for _ in range(halvings):  # patch merging pads odd grids
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return rows, columns


def _patches(pixel_values: Tensor, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Cut images into the patches (B, rows * columns, size * size * C) that SigLIP 2 takes, with their grid."""
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // size, width // size
    grid = pixel_values[..., : rows * size, : columns * size].view(batch, channels, rows, size, columns, size)
    patches = grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
    shapes = torch.tensor([[rows, columns]], device=patches.device).expand(batch, 2)
    return patches, {"pixel_attention_mask": mask, "spatial_shapes": shapes}


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    encoders = AutoModelForTextEncoding._model_mapping
    if config.is_encoder_decoder and type(config) in encoders:
        model_class: Any = encoders[type(config)]
        return model_class
    if type(config) in AutoModel._model_mapping:
        classes: Any = AutoModel._model_mapping[type(config)]
        return classes[0] if isinstance(classes, (list, tuple)) else classes
    # Text towers of SigLIP have a class, but no place in AutoModel.
    name = type(config).__name__.removesuffix("Config") + "Model"
    module = type(config).__module__.replace(".configuration_", ".modeling_")
    model_class = getattr(importlib.import_module(module), name, None)
    if model_class is None:
        raise ValueError(
            "Expected the configuration of a text or vision encoder of transformers, found type "
            f"{config.model_type!r}. Of an image-text model, pass its text_config or vision_config."
        )
    return model_class


def offloaded_device(model: nn.Module) -> torch.device | None:
    """Return where accelerate runs a model whose weights wait on disk or in memory; None where nothing does."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    for hook in hooks:
        for own in getattr(hook, "hooks", [hook]):
            if (device := getattr(own, "execution_device", None)) is not None:
                return torch.device(device)
    return None


__all__ = [
    "build_backbone",
    "check_adapter",
    "copy_weights",
    "grid_boxes",
    "grid_tokens",
    "is_causal",
    "load_tower",
    "offloaded_device",
    "patch_boxes",
    "read_regions",
    "read_words",
    "run_vision_backbone",
    "split_loading_options",
    "text_positions",
]
