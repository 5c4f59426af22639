# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery of random embeddings for a random model of realistic size, for benchmarks of the service.

python -m benchmarks.serve_gallery --out G --items 10000

The text tower has the shape of MiniLM-L6 (6 layers of width 384), the vision tower that of a small ViT on 224 pixels.
What is found is meaningless; what it costs is not.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, ViTConfig

from benchmarks.serve_load import TEXTS
from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor, TGDTRetriever
from trainer.tokenizers import build_word_tokenizer

_BLOCK = 4096


def make_retriever() -> TGDTRetriever:
    """Return a retriever with random weights and no gallery."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 6}
    config = TGDTConfig(
        text_config=BertConfig(**sizes, vocab_size=30522),
        vision_config=ViTConfig(**sizes, image_size=224, patch_size=32),
        projection_dim=128,
        num_region_layers=1,
    )
    image_processor = TGDTImageProcessor(size={"height": 224, "width": 224})
    return TGDTRetriever(TGDTModel(config).eval(), TGDTProcessor(image_processor, build_word_tokenizer(TEXTS)))


def fill(retriever: TGDTRetriever, path: Path, items: int, tokens: int) -> None:
    """Make a gallery of random unit vectors."""
    rng, dim = np.random.default_rng(0), retriever.model.config.projection_dim
    with retriever.create_index(path, token_dtype="int8") as index:
        for start in range(0, items, _BLOCK):
            count = min(_BLOCK, items - start)
            values = rng.standard_normal((count, tokens + 1, dim), dtype=np.float32)
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
            names = [f"{number:07}" for number in range(start, start + count)]
            years = [2000 + number % 25 for number in range(start, start + count)]
            index.add(names, values[:, 0], values[:, 1:], metadata={"year": years})


def main() -> None:
    """Write model and gallery into one directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=36)
    args = parser.parse_args()
    retriever = make_retriever()
    retriever.model.save_pretrained(args.out)
    retriever.processor.save_pretrained(args.out)
    fill(retriever, args.out / "index", args.items, args.tokens)


if __name__ == "__main__":
    main()
