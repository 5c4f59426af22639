# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A retriever over a model with an adapter of PEFT: searched, saved, moved and loaded again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_tgdt import TGDTModel, TGDTRetriever
from modeling_tgdt.retriever.fingerprint import weights_fingerprint
from modeling_tgdt.retriever.loading import load_pretrained
from tests.download_cache import as_download_cache
from tests.tiny_retrieval import random_picture, tiny_model, tiny_processor


def lora() -> LoraConfig:
    targets = ["query", "value", "q_proj", "v_proj"]
    return LoraConfig(r=2, target_modules=targets, modules_to_save=["text_projection"], init_lora_weights=False)


@pytest.fixture
def adapted(tmp_path: Path) -> PeftModel:
    """A PeftModel over a model that lies in `tmp_path / "base"`, saved in `tmp_path / "adapter"`."""
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(TGDTModel.from_pretrained(tmp_path / "base"), lora()).eval()
    with torch.no_grad():
        model.get_base_model().text_projection.modules_to_save["default"].weight.mul_(-1)
    model.save_pretrained(tmp_path / "adapter")
    return model


def filled(model: torch.nn.Module) -> TGDTRetriever:
    retriever = TGDTRetriever(model, tiny_processor())
    retriever.add_images([random_picture(seed) for seed in range(4)], progress=False)
    return retriever


def scores(retriever: TGDTRetriever) -> list[tuple[str, float]]:
    return [(hit.id, round(hit.score, 5)) for hit in retriever.search("a dog by the sea", top_k=4)]


@pytest.mark.parametrize("kind", ["peft", "load_adapter"])
def test_saved_with_the_model_that_it_adapts(adapted: PeftModel, kind: str, tmp_path: Path) -> None:
    model: torch.nn.Module = adapted
    if kind == "load_adapter":
        model = TGDTModel.from_pretrained(tmp_path / "base")
        model.load_adapter(str(tmp_path / "adapter"))
    assert weights_fingerprint(model) == weights_fingerprint(adapted)
    retriever = filled(model)
    assert scores(retriever) != scores(filled(tiny_model()))
    retriever.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "base")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    loaded = TGDTRetriever.from_pretrained(tmp_path / "moved")  # the gallery fits the weights
    assert loaded.model.active_adapters() == ["default"] and scores(loaded) == scores(retriever)
    base = TGDTModel.from_pretrained(tmp_path / "moved")
    base.disable_adapters()
    assert scores(filled(base)) == scores(filled(tiny_model()))
    config = json.loads((tmp_path / "moved" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None  # the path meant nothing elsewhere


def test_the_directory_of_an_adapter_is_a_model(adapted: PeftModel, tmp_path: Path) -> None:
    retriever = TGDTRetriever.from_pretrained(tmp_path / "adapter")  # the processor is that of the base
    retriever.add_images([random_picture(seed) for seed in range(4)], progress=False)
    assert scores(retriever) == scores(filled(adapted))


def test_merged_weights_rank_alike(adapted: PeftModel, tmp_path: Path) -> None:
    expected = scores(filled(adapted))
    merged = filled(adapted.merge_and_unload())
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    found = scores(TGDTRetriever.from_pretrained(tmp_path / "merged"))
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-3)


def test_an_adapter_of_another_name_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), lora(), adapter_name="mine")
    with pytest.raises(ValueError, match="'default' to be active, found 'mine'"):
        TGDTRetriever(model, tiny_processor()).save_pretrained(tmp_path)


FURTHER = {
    "imports": {"megatron_config": {"hidden_size": 1}, "megatron_core": "ran_by_an_adapter"},
    "names others": {"peft_type": "XLORA", "adapters": {"0": "../../x"}, "hidden_size": 32},
    "unknown": {"peft_type": "X"},
}


@pytest.mark.parametrize("change", FURTHER.values(), ids=list(FURTHER))
def test_an_adapter_is_weights_and_nothing_else(
    adapted: PeftModel, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT imports the module, or loads the adapters, that such a file names."""
    (tmp_path / "ran_by_an_adapter.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    model = TGDTModel.from_pretrained(tmp_path / "base")
    for load in (model.load_adapter, TGDTModel.from_pretrained, TGDTRetriever.from_pretrained):
        with pytest.raises(ValueError, match="Expected an adapter of a kind among .*LORA"):
            load(str(tmp_path / "adapter"))


def test_a_downloaded_adapter_names_no_model_of_this_machine(adapted: PeftModel, tmp_path: Path) -> None:
    snapshot = as_download_cache(tmp_path / "adapter", tmp_path / "cache")
    with pytest.raises(ValueError, match="names its model as .*base', which is no repository.*load_adapter"):
        load_pretrained(str(snapshot))
