# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Loading options reach the loads and nothing else; unknown names are refused; no secret or path is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, BertModel, ViTModel

import modeling_tgdt.backbones_tgdt as backbones
from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor
from modeling_tgdt.configuration_tgdt import LOADING_OPTIONS
from tests.modeling_tgdt import tiny
from tests.modeling_tgdt.test_processing_tgdt import make_processor

SECRET = "hf_" + "s3cr3t" * 5
LOADING: dict[str, Any] = {
    "token": SECRET,
    "revision": "main",
    "local_files_only": True,
    "force_download": False,
    "use_safetensors": True,
    "trust_remote_code": False,
}


@pytest.fixture
def towers(tmp_path: Path) -> tuple[str, str]:
    BertModel(tiny.text_config()).save_pretrained(tmp_path / "text")
    ViTModel(tiny.vision_config()).save_pretrained(tmp_path / "vision")
    return str(tmp_path / "vision"), str(tmp_path / "text")


def saved_text(saved: Any, folder: Path) -> str:
    saved.save_pretrained(folder)
    return "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md", ".jinja"))


def test_options_reach_both_loads_and_nothing_is_saved(towers, tmp_path: Path, monkeypatch) -> None:
    seen: dict[str, dict[str, Any]] = {}
    load = AutoModel.from_pretrained

    def record(name: str, **options: Any) -> Any:
        seen[Path(name).name] = {key: value for key, value in options.items() if key != "output_loading_info"}
        return load(name, **options)

    monkeypatch.setattr(backbones.AutoModel, "from_pretrained", record)
    options = LOADING | {"cache_dir": str(tmp_path / "cache"), "text_revision": "v1", "vision_variant": None}
    model = TGDTModel.from_vision_text_pretrained(*towers, projection_dim=32, **options)
    shared = {name: value for name, value in options.items() if name in LOADING_OPTIONS}
    assert seen["text"] == shared | {"dtype": torch.float32, "revision": "v1"}
    assert seen["vision"] == shared | {"dtype": torch.float32, "variant": None}
    assert model.config.projection_dim == 32
    text = saved_text(model, tmp_path / "model")
    assert SECRET not in text and str(tmp_path) not in text and "revision" not in text
    assert not any(hasattr(model.config, name) for name in options)


def test_no_load_saves_its_secret_or_its_path(towers, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    TGDTModel.from_vision_text_pretrained(*towers).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    options = LOADING | {"cache_dir": str(tmp_path / "cache")}
    loads: dict[str, Callable[[], Any]] = {
        "model": lambda: TGDTModel.from_pretrained(folder, **options),
        "auto": lambda: AutoModel.from_pretrained(folder, **options),
        "config": lambda: AutoConfig.from_pretrained(folder, **options),
        "processor": lambda: TGDTProcessor.from_pretrained(folder, **options),
        "pixels": lambda: TGDTImageProcessor.from_pretrained(folder, **options),
        "backbone": lambda: TGDTImageProcessor.from_backbone(folder, token=SECRET, revision="main"),
        "composed": lambda: TGDTConfig(text_config=AutoConfig.from_pretrained(towers[1])),
    }
    for name, load in loads.items():
        text = saved_text(load(), tmp_path / "saved" / name)
        assert text and SECRET not in text and str(tmp_path) not in text, name


def test_unknown_names_are_refused(towers, tmp_path: Path) -> None:
    TGDTModel.from_vision_text_pretrained(*towers).save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    calls: list[Callable[[], Any]] = [
        lambda: TGDTConfig(projection_dimm=8),
        lambda: TGDTConfig.from_dict({"projection_dimm": 8}),
        lambda: TGDTConfig.from_dict({}, projection_dimm=8),
        lambda: TGDTConfig.from_pretrained(tmp_path, projection_dimm=8),
        lambda: AutoConfig.from_pretrained(tmp_path, projection_dimm=8),
        lambda: TGDTModel.from_pretrained(tmp_path, projection_dimm=8),
        lambda: AutoModel.from_pretrained(tmp_path, projection_dimm=8),
        lambda: TGDTModel.from_vision_text_pretrained(*towers, projection_dimm=8),
        lambda: TGDTImageProcessor.from_backbone(tmp_path, projection_dimm=8),
        lambda: TGDTImageProcessor.from_pretrained(tmp_path, projection_dimm=8),
        lambda: TGDTProcessor.from_pretrained(tmp_path, projection_dimm=8),
        lambda: AutoProcessor.from_pretrained(tmp_path, projection_dimm=8),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="projection_dimm"):
            call()
    with pytest.raises(TypeError, match="Did you mean 'projection_dim'"):
        calls[0]()
    with pytest.raises(TypeError, match="projection_dimm"):  # before anything is looked for
        TGDTModel.from_vision_text_pretrained("no/such", "no/such", projection_dimm=8)


@pytest.mark.parametrize("load", [TGDTProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_a_processor_takes_the_options_of_its_parts(load: Callable[..., Any], tmp_path: Path) -> None:
    """Also beside a model, whose configuration the Auto classes load with the same options on the way."""
    tiny.tiny_config().save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    own = {"max_caption_length": 12, "padding_side": "left", "size": {"height": 8, "width": 8}, "do_lower_case": True}
    processor = load(tmp_path, **own, backend="pil")
    assert processor.max_caption_length == 12 and processor.tokenizer.padding_side == "left"
    assert dict(processor.image_processor.size) == {"height": 8, "width": 8}
    assert type(processor.image_processor).__name__ == "TGDTImageProcessorPil"
    assert type(load(tmp_path, use_fast=True).image_processor).__name__ == "TGDTImageProcessor"
    assert AutoTokenizer.from_pretrained(tmp_path, padding_side="left").padding_side == "left"


def test_a_forward_pass_refuses_what_no_encoder_reads() -> None:
    model, texts, images = tiny.tiny_model(), tiny.text_inputs(), tiny.region_inputs()
    for call in (model.get_image_features, model.get_text_features, model):
        inputs = texts | images if call is model else texts if call == model.get_text_features else images
        call(**inputs, output_hidden_states=True)
        with pytest.raises(TypeError, match="'output_hiden_states'.*output_hidden_states"):
            call(**inputs, output_hiden_states=True)
    with pytest.raises(TypeError, match="labels"):
        model(**texts, **images, labels=torch.zeros(8))
