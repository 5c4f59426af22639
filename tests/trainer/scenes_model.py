"""A tiny ViT-backed model and captioned scenes for tests of training."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from transformers import set_seed

from modeling_tgdt import TGDTImageProcessor, TGDTModel, TGDTProcessor
from tests.modeling_tgdt import tiny
from trainer.data.negatives import NEGATIVE_FEATURES
from trainer.scenes import make_scenes
from trainer.tokenizers import build_word_tokenizer

SIZE = 32


@cache
def scenes(count: int = 24, seed: int = 0) -> Any:
    return make_scenes(count, seed, image_size=SIZE)


@cache
def scenes_with_negatives(count: int = 24) -> Any:
    """Scenes of which each names 0 to 2 captions and 0 or 1 picture of other scenes as hard negatives."""
    plain = scenes(count)
    pictures = plain.cast_column("image", datasets.Image(decode=False))["image"][:]
    captions, ids = plain["captions"][:], plain["image_id"][:]
    others = [[(row + 1 + k) % count for k in range(row % 3)] for row in range(count)]
    columns = {
        "negative_captions": [[captions[other][0] for other in found] for found in others],
        "negative_images": [[pictures[other] for other in found[:1]] for found in others],
        "negative_image_ids": [[ids[other] for other in found[:1]] for found in others],
    }
    for name, values in columns.items():
        plain = plain.add_column(name, values, feature=NEGATIVE_FEATURES[name])
    return plain


@cache
def processor() -> TGDTProcessor:
    captions = [caption for row in scenes()["captions"] for caption in row]
    size = {"height": SIZE, "width": SIZE}
    return TGDTProcessor(TGDTImageProcessor(size=size), build_word_tokenizer(captions, model_max_length=40))


def tiny_model(seed: int = 0, **overrides: Any) -> TGDTModel:
    set_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = tiny.text_config(**sizes, vocab_size=len(processor().tokenizer), max_position_embeddings=48)
    fields = {"projection_dim": 16, "intermediate_size": 32, "region_feature_size": 2048, "num_region_layers": None}
    config = tiny.tiny_config(tiny.vision_config(**sizes, image_size=SIZE), text_config=text, **(fields | overrides))
    return TGDTModel(config)


def save_photos(folder: Path) -> None:
    """Write 12 captioned pictures and their captions.jsonl into a new folder."""
    folder.mkdir()
    rows = []
    for number, row in enumerate(scenes(12, 3)):
        row["image"].save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "captions": row["captions"]})
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
