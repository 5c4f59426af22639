"""A tiny random dual encoder of every family that can be taken up, with its processor, on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    Aimv2Config,
    AlignConfig,
    AlignProcessor,
    AltCLIPConfig,
    AltCLIPProcessor,
    AutoModel,
    BertConfig,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPVisionConfig,
    EfficientNetImageProcessor,
    MetaClip2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    Tipsv2Config,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from tests.modeling_tgdt.tokenizers_of_families import TOKENIZERS

IMAGE, PATCH, WIDTH, DIM, WORDS, VOCABULARY = 32, 8, 32, 24, 16, 600
TEXTS = ["a red car", "sea", "dogs do the sea, a car", "the red sea " * 8]
_LAYERS: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "initializer_range": 0.3,
}
_PIXELS = _LAYERS | {"image_size": IMAGE, "patch_size": PATCH}
_SIDES = {"height": IMAGE, "width": IMAGE}
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
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}


def _crop() -> Any:
    return CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=_SIDES)


def _clip_like(config_class: Any, **text: Any) -> Callable[[dict[str, Any]], PreTrainedConfig]:
    return lambda words: config_class(text_config=words | text, vision_config=_PIXELS, projection_dim=DIM)


def _vision_text(vision: PreTrainedConfig) -> Callable[[dict[str, Any]], PreTrainedConfig]:
    return lambda words: VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, BertConfig(**words), projection_dim=DIM
    )


def _siglip(config_class: Any, vision: dict[str, Any]) -> Callable[[dict[str, Any]], PreTrainedConfig]:
    return lambda words: config_class(text_config=words | {"projection_size": WIDTH}, vision_config=vision)


@dataclass(frozen=True)
class Family:
    """How one family is made: its configuration for the fields of a text tower, and the parts of its processor."""

    config: Callable[[dict[str, Any]], PreTrainedConfig]
    tokenizer: str
    image_processor: Callable[[], Any]
    processor: Any = None


FAMILIES = {
    "clip": Family(_clip_like(CLIPConfig), "clip", _crop, CLIPProcessor),
    "clip-old-eos": Family(_clip_like(CLIPConfig, eos_token_id=2), "clip", _crop, CLIPProcessor),
    "metaclip-2": Family(_clip_like(MetaClip2Config), "xlm-roberta", _crop, CLIPProcessor),
    "altclip": Family(
        _clip_like(AltCLIPConfig, project_dim=20, max_position_embeddings=WORDS + 2),
        "xlm-roberta",
        _crop,
        AltCLIPProcessor,
    ),
    "chinese-clip": Family(
        _clip_like(ChineseCLIPConfig),
        "bert",
        lambda: ChineseCLIPImageProcessor(size=_SIDES, crop_size=_SIDES),
        ChineseCLIPProcessor,
    ),
    "align": Family(
        lambda words: AlignConfig(
            text_config=words, vision_config=_ALIGN_PIXELS, projection_dim=16, temperature_init_value=0.5
        ),
        "bert",
        lambda: EfficientNetImageProcessor(size=_SIDES, crop_size=_SIDES),
        AlignProcessor,
    ),
    "siglip": Family(_siglip(SiglipConfig, _PIXELS), "siglip", lambda: SiglipImageProcessor(size=_SIDES)),
    "siglip-2": Family(
        _siglip(Siglip2Config, _LAYERS | {"patch_size": PATCH, "num_patches": 16}),
        "siglip2",
        lambda: Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=20),
    ),
    "aimv2": Family(_clip_like(Aimv2Config), "clip", _crop, CLIPProcessor),
    "tipsv2": Family(
        lambda words: Tipsv2Config(text_config=words, vision_config=_PIXELS, temperature_init_value=0.1),
        "t5",
        lambda: SiglipImageProcessor(size=_SIDES),
    ),
    "vit-bert": Family(
        _vision_text(ViTConfig(**_PIXELS)),
        "bert",
        lambda: ViTImageProcessor(size=_SIDES),
        VisionTextDualEncoderProcessor,
    ),
    "clip-bert": Family(_vision_text(CLIPVisionConfig(**_PIXELS)), "bert", _crop, VisionTextDualEncoderProcessor),
}


def pictures() -> list[Image.Image]:
    """Two pictures of different shapes."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).resize((2 * size[1], 2 * size[0]))
        for size in ((20, 30), (36, 22))
    ]


def save_dual_encoder(name: str, folder: Path, seed: int = 0) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Save a random dual encoder with its tokenizer and image processor.

    Args:
        name: Key of `FAMILIES`.
        folder: Where to.
        seed: Of the weights.

    Returns:
        The model in evaluation mode, with a scale and a bias unlike a new one's, and the inputs that its own processor
        makes of `TEXTS` and `pictures()`.
    """
    family = FAMILIES[name]
    tokenizer, image_processor = TOKENIZERS[family.tokenizer](), family.image_processor()
    tokenizer.model_max_length = WORDS
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    words = _LAYERS | {"vocab_size": VOCABULARY, "max_position_embeddings": WORDS} | ends
    torch.manual_seed(seed)
    model = AutoModel.from_config(family.config(words)).eval()
    with torch.no_grad():
        for field, value in (("logit_scale", 1.5), ("logit_bias", -3.0)):
            if hasattr(model, field):
                getattr(model, field).fill_(value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    options: dict[str, Any] = {"truncation": True, "return_tensors": "pt", "padding": True, "max_length": WORDS}
    if family.processor is not None:
        return model, dict(family.processor(image_processor, tokenizer)(text=TEXTS, images=pictures(), **options))
    texts = tokenizer(TEXTS, **(options | {"padding": "max_length"}))
    return model, {**texts, **image_processor(pictures(), return_tensors="pt")}
