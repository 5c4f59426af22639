# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""No file of a model directory runs code, or asks whether it may, unless the caller trusts it."""

import builtins
import contextlib
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from modeling_tgdt import TGDTModel, TGDTProcessor, TGDTRetriever
from tests.tiny_retrieval import tiny_model, tiny_processor
from trainer.commands.convert import run as convert

CODE = "open({ran!r}, 'w').close()\n\nclass Custom:\n    def from_pretrained(*args, **options):\n        pass\n"
AUTO_MAP = {
    "AutoTokenizer": ["custom.Custom", "custom.Custom"],
    **dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "custom.Custom"),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory whose every JSON file names code, at a terminal where somebody answers "y"."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (folder / "custom.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    for path in folder.glob("*.json"):
        if path.name != "tokenizer.json":
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "auto_map": AUTO_MAP}))

    def answer(prompt: str = "") -> str:
        (tmp_path / "asked").write_text(prompt)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    return folder


def loads(load: Callable[[Path], Any], folder: Path) -> None:
    with contextlib.suppress(ValueError, OSError):
        load(folder)
    assert not (folder.parent / "ran").exists() and not (folder.parent / "asked").exists()


@pytest.mark.parametrize("tokenizer_class", ["TokenizersBackend", "Custom", None])
@pytest.mark.parametrize(
    "load", [TGDTProcessor.from_pretrained, TGDTModel.from_pretrained, TGDTRetriever.from_pretrained]
)
def test_a_model_directory_runs_no_code(model: Path, load: Callable[[Path], Any], tokenizer_class: str | None) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": tokenizer_class}))
    loads(load, model)


def test_backbones_run_no_code(model: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=9)).save_pretrained(model)
    content = json.loads((model / "config.json").read_text())
    for model_type in ("bert", "custom"):
        (model / "config.json").write_text(json.dumps({**content, "model_type": model_type, "auto_map": AUTO_MAP}))
        loads(lambda folder: TGDTModel.from_vision_text_pretrained(None, str(folder)), model)


@pytest.mark.parametrize("name", ["AutoModel", "AutoTokenizer", "BertModel"])
def test_a_processor_loads_no_model(model: Path, name: str) -> None:
    """transformers loads what a processor's file calls its audio tokenizer, from where that file says."""
    path = model / "processor_config.json"
    audio = {"audio_tokenizer_class": name, "audio_tokenizer_name_or_path": str(model)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "audio_tokenizer": audio}))
    with pytest.raises(ValueError, match=f"found {name}"):
        TGDTProcessor.from_pretrained(model)
    loads(TGDTProcessor.from_pretrained, model)


def test_converting_runs_no_code(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "custom", "auto_map": AUTO_MAP}))
    loads(lambda folder: convert(Namespace(checkpoint="x", output=str(tmp_path), text_model=str(folder))), model)
