"""Tiny configurations of every backbone that the composition tests build on."""

from typing import Any

from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    DistilBertConfig,
    HieraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    ResNetConfig,
    RobertaConfig,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

IMAGE, VOCABULARY = 32, 99
LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
_WORDS: dict[str, Any] = LAYERS | {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
_PIXELS: dict[str, Any] = LAYERS | {"image_size": IMAGE, "patch_size": 8}
_SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}

TEXT: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_WORDS),
    "roberta": RobertaConfig(**_WORDS),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=64, pad_token_id=0
    ),
    "modernbert": ModernBertConfig(
        **_WORDS, **_SPECIAL, cls_token_id=1, sep_token_id=2, local_attention=4, global_attn_every_n_layers=2
    ),
}
VISION: dict[str, PreTrainedConfig] = {
    "vit": ViTConfig(**_PIXELS),
    "dinov2": Dinov2Config(**_PIXELS),
    "siglip": SiglipVisionConfig(**_PIXELS),
    "swin": SwinConfig(image_size=IMAGE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2),
    "convnext": ConvNextConfig(**_STAGES, num_stages=2),
    "resnet": ResNetConfig(**_STAGES, embedding_size=8, layer_type="basic"),
    "clip": CLIPVisionConfig(**_PIXELS),
    "dinov3": DINOv3ViTConfig(**_PIXELS, num_register_tokens=2),
    "dinov3-convnext": DINOv3ConvNextConfig(**_STAGES, image_size=IMAGE),
    "hiera": HieraConfig(
        image_size=[IMAGE, IMAGE],
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        num_query_pool=1,
        masked_unit_size=[2, 2],
        mlp_ratio=2.0,
    ),
}
COMPOSITE: dict[str, PreTrainedConfig] = {
    "clip": CLIPConfig(text_config=_WORDS | _SPECIAL, vision_config=_PIXELS, projection_dim=32),
    "siglip": SiglipConfig(text_config=_WORDS | _SPECIAL, vision_config=_PIXELS),
}
SIGLIP2 = Siglip2VisionConfig(**LAYERS, patch_size=8, num_patches=16)
