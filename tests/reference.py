"""The recorded reference (see tests/fixtures/reference/README.md) in the terms of this package."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
CHECKPOINT = REFERENCE / "checkpoint.safetensors"
BATCHES = ("equal", "ragged", "single")
TEXT_CONFIG = BertConfig(
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=64,
    vocab_size=100,
    max_position_embeddings=64,
    num_hidden_layers=2,
)


def length_mask(lengths: Tensor, width: int) -> Tensor:
    return torch.arange(width)[None] < lengths[:, None]


def load_batch(name: str) -> dict[str, Tensor]:
    return load_file(REFERENCE / f"forward_{name}.safetensors")


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference reserves region slot 0; ours starts with the first region."""
    regions = batch["in.features"].shape[1] - 1
    return {
        "input_ids": batch["in.captions"],
        "attention_mask": length_mask(batch["in.cap_len"], batch["in.captions"].shape[1]).long(),
        "region_features": batch["in.features"][:, 1:],
        "region_boxes": batch["in.boxes"][:, 1:],
        "region_mask": length_mask(batch["in.feat_len"] - 1, regions),
    }


def load_alignment(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Recorded token sets with the masks of real regions (slot 0 dropped) and of words as the reference cuts them."""
    data = load_file(REFERENCE / f"losses_alignment_{name}.safetensors")
    regions = length_mask(data["im_len"] - 1, data["im_set"].shape[1] - 1)
    words = length_mask(data["s_len"] - 2, data["s_seq"].shape[1])
    words[:, 0] = False
    return data, regions, words
