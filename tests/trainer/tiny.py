"""A tiny model, its processor, and generated photos for the trainer's tests."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import ResNetConfig

from modeling_tgdt.image_processing_pil_tgdt import TGDTImageProcessorPil
from modeling_tgdt.modeling_tgdt import TGDTModel
from modeling_tgdt.processing_tgdt import TGDTProcessor
from tests.modeling_tgdt import tiny
from trainer.tokenizers import build_word_tokenizer

COLORS = ("red", "green", "blue", "white", "black", "yellow")


def caption_of(number: int, version: int = 0) -> str:
    return f"a {COLORS[number % len(COLORS)]} square number {number} seen {['once', 'twice', 'thrice'][version % 3]}"


def tiny_processor() -> TGDTProcessor:
    tokenizer = build_word_tokenizer([caption_of(number, number) for number in range(40)])
    return TGDTProcessor(TGDTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)


def tiny_model(pixels: bool = True, width: int = 16) -> TGDTModel:
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, width], depths=[1, 1], layer_type="basic")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = tiny.text_config(**sizes, vocab_size=80, max_position_embeddings=512)
    fields = {"region_feature_size": width, "projection_dim": 16, "num_region_layers": 0, "intermediate_size": 16}
    return tiny.tiny_model(vision if pixels else None, text_config=text, **fields)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def photo_folder(folder: Path, count: int) -> list[str]:
    """Write pictures and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"photo{number:04d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        picture(number).save(folder / name)
    return names


def photo_rows(folder: Path, count: int, captions: int = 2) -> dict[str, list[Any]]:
    names = photo_folder(folder, count)
    return {
        "image": [str(folder / name) for name in names],
        "captions": [[caption_of(number, version) for version in range(captions)] for number in range(count)],
        "image_id": [name.removesuffix(".jpg") for name in names],
    }
