"""A tiny ViT-backed model and captioned scenes for tests of training."""

from functools import cache
from typing import Any

from transformers import BertConfig, ViTConfig, set_seed

from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor
from trainer.scenes import make_scenes
from trainer.tokenizers import build_word_tokenizer

SIZE = 32


@cache
def scenes(count: int = 24, seed: int = 0) -> Any:
    return make_scenes(count, seed, image_size=SIZE)


@cache
def processor() -> TGDTProcessor:
    captions = [caption for row in scenes()["captions"] for caption in row]
    size = {"height": SIZE, "width": SIZE}
    return TGDTProcessor(TGDTImageProcessor(size=size), build_word_tokenizer(captions, model_max_length=40))


def tiny_model(seed: int = 0, **overrides: Any) -> TGDTModel:
    set_seed(seed)
    text = BertConfig(
        vocab_size=len(processor().tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
    )
    vision = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=SIZE, patch_size=8
    )
    fields = {"projection_dim": 16, "intermediate_size": 32, "num_local_layers": 1, "num_global_layers": 1}
    return TGDTModel(TGDTConfig(text_config=text, vision_config=vision, **(fields | overrides)))
