# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A tiny random model, its processor, and pictures, for tests of retrieval."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_tgdt import TGDTModel
from modeling_tgdt.image_processing_tgdt import TGDTImageProcessor
from modeling_tgdt.processing_tgdt import TGDTProcessor
from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from tests.modeling_tgdt import tiny
from trainer.tokenizers import build_word_tokenizer

CAPTIONS = [
    "a red ball on a blue box",
    "two dogs run over green grass near the sea",
    "sea",
    "a man reads a book, and a cat sleeps",
]


def tiny_processor(**options: Any) -> TGDTProcessor:
    """Return a processor for 32 x 32 pixels and the words of `CAPTIONS`."""
    image_processor = TGDTImageProcessor(**{"size": {"height": 32, "width": 32}, **options})
    return TGDTProcessor(image_processor, build_word_tokenizer(CAPTIONS))


def tiny_model(seed: int = 0, *, vision: Any = "vit", **options: Any) -> TGDTModel:
    """Return a random model in evaluation mode; `vision=None` reads regions of width 16."""
    sizes = {"num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.5}
    if vision == "vit":
        vision = tiny.vision_config(**sizes, image_size=32)
    text = tiny.text_config(**sizes, vocab_size=len(tiny_processor().tokenizer), max_position_embeddings=512)
    fields = {"intermediate_size": 64, "initializer_range": 0.3, "num_local_layers": 2, "num_global_layers": 2}
    return tiny.tiny_model(vision, seed, text_config=text, **(fields | options))


def tiny_retriever(seed: int = 0, **options: Any) -> TGDTRetriever:
    """Return a retriever without a gallery."""
    return TGDTRetriever(tiny_model(seed, **options), tiny_processor())


def random_picture(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return an RGB picture of random blocks, (width, height) = `size`."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_bomb(width: int, height: int | None = None) -> bytes:
    """Return a PNG of a few bytes whose header claims `width` x `height` pixels, by default a square."""
    size = width.to_bytes(4, "big") + (height or width).to_bytes(4, "big")
    chunks = {b"IHDR": size + b"\x08\x02\x00\x00\x00", b"IDAT": zlib.compress(bytes(100))}
    parts = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def picture_folder(folder: Path, count: int) -> Path:
    """Write `count` PNG pictures, half of them in a sub-folder, and return the folder."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random_picture(number).save(folder / ("sub" if number % 2 else "") / f"{number:03d}.png")
    return folder
