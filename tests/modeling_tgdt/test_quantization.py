# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Quantised weights of bitsandbytes and of PyTorch give the embeddings of float32, up to their bits."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.nn import functional as F
from transformers import BitsAndBytesConfig

from modeling_tgdt import TGDTModel, TGDTOutput
from tests.modeling_tgdt import tiny

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "regions": (None, {}),
    "pixels": (tiny.vision_config(), {"encoder_layer_type": "residual", "box_encoding": "sum"}),
}
BITS = {8: BitsAndBytesConfig(load_in_8bit=True), 4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}
LEAST_COSINE = {8: 0.98, 4: 0.9}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TGDTModel, dict[str, torch.Tensor]]:
    vision, options = KINDS[request.param]
    model = tiny.tiny_model(copy.deepcopy(vision), **options)
    with torch.no_grad():  # residual blocks start at zero, which any number of bits holds
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.02)
    model.save_pretrained(tmp_path)
    return model, tiny.text_inputs() | (tiny.pixel_inputs() if vision else tiny.region_inputs())


def least_cosine(found: TGDTOutput, expected: TGDTOutput) -> float:
    """Return the smallest cosine between embeddings of two passes, global ones and tokens."""
    least = 1.0
    for side in ("image", "text"):
        mask = expected[f"{side}_token_mask"]
        for name, rows in ((f"{side}_embeds", slice(None)), (f"{side}_token_embeds", mask)):
            cosines = F.cosine_similarity(found[name][rows].float(), expected[name][rows].float(), dim=-1)
            least = min(least, float(cosines.min()))
    return least


def loaded(folder: Path, bits: int) -> TGDTModel:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this platform")
    return TGDTModel.from_pretrained(folder, quantization_config=BITS[bits])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_bitsandbytes(case, bits: int, tmp_path: Path) -> None:
    model, inputs = case
    quantized = loaded(tmp_path, bits)
    integer = [name for name, weight in quantized.named_parameters() if not weight.is_floating_point()]
    assert {"visual_projection.weight", "text_projection.weight"} <= set(integer)
    assert any(name.startswith("text_model.") for name in integer)
    assert not any(name.startswith("region_embedding.fc1") for name in integer)  # its width is odd
    with torch.no_grad():
        expected, found = model(**inputs), quantized(**inputs, return_loss=True)
    assert found.image_embeds.dtype == torch.float32 and found.loss.isfinite()
    assert LEAST_COSINE[bits] < least_cosine(found, expected) < 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_an_adapter_trains_on_quantized_weights(case, bits: int, tmp_path: Path) -> None:
    _, inputs = case
    base = prepare_model_for_kbit_training(loaded(tmp_path, bits), use_gradient_checkpointing=False)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query", "value", "q_proj", "v_proj"]))
    adapted(**inputs, return_loss=True).loss.backward()
    weights = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert weights and all("lora_" in name and weight.grad is not None for name, weight in weights.items())
    assert any(weight.grad.abs().sum() > 0 for weight in weights.values())


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamic_quantization_of_pytorch(case) -> None:
    model, inputs = case
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    assert callable(quantized.visual_projection.weight)  # the packed weight is behind a function
    with torch.no_grad():
        assert LEAST_COSINE[8] < least_cosine(quantized(**inputs), model(**inputs)) < 1
