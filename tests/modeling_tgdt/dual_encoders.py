"""A tiny random dual encoder of every family that can be taken up."""

from typing import Any

import torch
from transformers import (
    Aimv2Config,
    AlignConfig,
    AltCLIPConfig,
    AutoModel,
    BertConfig,
    ChineseCLIPConfig,
    CLIPConfig,
    CLIPVisionConfig,
    MetaClip2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2Config,
    SiglipConfig,
    Tipsv2Config,
    VisionTextDualEncoderConfig,
    ViTConfig,
)

IMAGE, PATCH, WIDTH, DIM, WORDS, VOCABULARY = 32, 8, 32, 24, 16, 99
_LAYERS: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "initializer_range": 0.3,
}
_PIXELS = _LAYERS | {"image_size": IMAGE, "patch_size": PATCH}
_TEXT = _LAYERS | {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": WORDS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}
_CLIP: dict[str, Any] = {"text_config": _TEXT, "vision_config": _PIXELS, "projection_dim": DIM}
_SIGLIP_TEXT = _TEXT | {"projection_size": WIDTH}
_BERT = BertConfig(**(_TEXT | {"eos_token_id": None, "bos_token_id": None}))
_ALIGN_PIXELS: dict[str, Any] = {
    "image_size": IMAGE,
    "depth_divisor": 8,
    "hidden_dim": 16,
    "kernel_sizes": [3, 3],
    "in_channels": [32, 8],
    "out_channels": [8, 16],
    "strides": [2, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
    "depthwise_padding": [],
    "squeeze_expansion_ratio": 0.25,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_act": "swish",
}


def _vision_text(vision: PreTrainedConfig) -> PreTrainedConfig:
    return VisionTextDualEncoderConfig.from_vision_text_configs(vision, _BERT, projection_dim=DIM)


CONFIGS: dict[str, PreTrainedConfig] = {
    "clip": CLIPConfig(**_CLIP),
    "clip-legacy-eos": CLIPConfig(**_CLIP | {"text_config": _TEXT | {"eos_token_id": 2}}),
    "metaclip-2": MetaClip2Config(**_CLIP),
    "altclip": AltCLIPConfig(
        **_CLIP | {"text_config": _TEXT | {"project_dim": 20, "max_position_embeddings": WORDS + 1}}
    ),
    "chinese-clip": ChineseCLIPConfig(**_CLIP),
    "align": AlignConfig(
        text_config=_TEXT, vision_config=_ALIGN_PIXELS, projection_dim=16, temperature_init_value=0.5
    ),
    "siglip": SiglipConfig(text_config=_SIGLIP_TEXT, vision_config=_PIXELS),
    "siglip-2": Siglip2Config(
        text_config=_SIGLIP_TEXT, vision_config=_LAYERS | {"patch_size": PATCH, "num_patches": 16}
    ),
    "aimv2": Aimv2Config(**_CLIP),
    "tipsv2": Tipsv2Config(text_config=_TEXT, vision_config=_PIXELS),
    "vit-bert": _vision_text(ViTConfig(**_PIXELS)),
    "clip-bert": _vision_text(CLIPVisionConfig(**_PIXELS)),
}


def random_dual_encoder(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a dual encoder in evaluation mode whose scale and bias are not those of a new one."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(CONFIGS[name]).eval()
    with torch.no_grad():
        for field, value in (("logit_scale", 1.5), ("logit_bias", -3.0)):
            if hasattr(model, field):
                getattr(model, field).fill_(value)
    return model
