# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the examples need: a tiny model on disk, drawn pictures with captions, and two backbones."""

from pathlib import Path

import pytest
from transformers import BertModel, ViTConfig, ViTImageProcessor, ViTModel

from examples import draw_pictures
from tests.trainer.scenes_model import processor, tiny_model

QUERY = "a small red star above a blue circle"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures.main([str(tmp_path_factory.mktemp("user") / "pictures"), "--count", "12"])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model with its processor, such as `make demo` or somebody on the Hub leaves."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save_pretrained(folder)
    processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Directories of a vision and a text encoder."""
    folder = tmp_path_factory.mktemp("backbones")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=16)).save_pretrained(folder / "vision")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vision")
    BertModel(tiny_model().config.text_config).save_pretrained(folder / "text")
    processor().tokenizer.save_pretrained(folder / "text")
    return str(folder / "vision"), str(folder / "text")
