"""Tiny configurations, models and inputs. All tests build their models here; `options` say where they differ."""

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedConfig, ViTConfig

from modeling_tgdt import TGDTConfig, TGDTModel

BATCH, WORDS, REGIONS, FEATURE, DIM, IMAGE, PATCH, VOCABULARY = 8, 7, 6, 16, 32, 24, 8, 99


def text_config(**options: Any) -> BertConfig:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
    }
    return BertConfig(**(sizes | options))


def vision_config(**options: Any) -> ViTConfig:
    sizes: dict[str, Any] = {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }
    return ViTConfig(**(sizes | options))


def tiny_config(vision: PreTrainedConfig | None = None, **options: Any) -> TGDTConfig:
    sizes: dict[str, Any] = {
        "text_config": text_config(),
        "vision_config": vision,
        "region_feature_size": FEATURE,
        "projection_dim": DIM,
        "num_region_layers": 1,
        "num_local_layers": 1,
        "num_global_layers": 1,
        "intermediate_size": 37,
    }
    return TGDTConfig(**(sizes | options))


def tiny_model(vision: PreTrainedConfig | None = None, seed: int = 0, **options: Any) -> TGDTModel:
    torch.manual_seed(seed)
    return TGDTModel(tiny_config(vision, **options)).eval()


def text_inputs(batch: int = BATCH, seed: int = 0) -> dict[str, Tensor]:
    """Captions of every length from 3 tokens on, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch) % (WORDS - 2) + 3
    mask = (torch.arange(WORDS)[None] < lengths[:, None]).long()
    return {"input_ids": torch.randint(1, VOCABULARY, (batch, WORDS), generator=generator), "attention_mask": mask}


def region_inputs(batch: int = BATCH, seed: int = 0, feature: int = FEATURE) -> dict[str, Tensor]:
    """Region sets of every size from 2 on."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(batch).flip(0) % (REGIONS - 1) + 2
    corners = torch.rand(batch, REGIONS, 2, generator=generator) / 2
    sides = torch.rand(batch, REGIONS, 2, generator=generator) / 2
    return {
        "region_features": torch.randn(batch, REGIONS, feature, generator=generator),
        "region_boxes": torch.cat([corners, corners + sides], dim=-1),
        "region_mask": torch.arange(REGIONS)[None] < lengths[:, None],
    }


def pixel_inputs(batch: int = BATCH, seed: int = 0, size: int = IMAGE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
