# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Padding, batch size, batch order and whatever stands under a mask change no output."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_tgdt import TGDTModel
from modeling_tgdt.modeling_tgdt import TGDTOutput
from tests.modeling_tgdt import tiny
from tests.modeling_tgdt.backbones import TEXT, VISION

Inputs = dict[str, Tensor]
TOLERANCE = {"atol": 1e-5, "rtol": 0}
OPTIONS = {
    "regions": {},
    "regions-sum-zeros": {"box_encoding": "sum", "image_global_token": "zeros", "share_local_encoder": True},
    "regions-global-tokens": {"box_encoding": "none", "token_source": "global", "similarity_reduction": "sum"},
    "regions-mean-captions": {"text_global_token": "mean"},
    "regions-mean-max": {"image_global_token": "mean_max"},
    "regions-weighted-words": {"word_weighting": "learned"},
    "regions-residual": {"encoder_layer_type": "residual", "box_encoding": "sum"},
    "swin-roberta": {"text_config": TEXT["roberta"], "vision_config": VISION["swin"]},
    "vit-modernbert": {"text_config": TEXT["modernbert"], "vision_config": VISION["vit"]},
}


@pytest.fixture(params=OPTIONS)
def model(request: pytest.FixtureRequest) -> TGDTModel:
    model = tiny.tiny_model(**({"vision": None} | OPTIONS[request.param]))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():  # new layers do nothing yet
            torch.nn.init.normal_(module.weight, std=0.3)
    return model


def inputs_of(model: TGDTModel) -> Inputs:
    images = tiny.region_inputs() if model.vision_model is None else tiny.pixel_inputs(size=32)
    return tiny.text_inputs() | images


def run(model: TGDTModel, inputs: Inputs) -> TGDTOutput:
    with torch.no_grad():
        return model(**inputs)


def assert_same(found: TGDTOutput, expected: TGDTOutput, pick: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """Compare global embeddings, scores, and the tokens under the masks."""
    for side in ("image", "text"):
        torch.testing.assert_close(found[f"{side}_embeds"], pick(expected[f"{side}_embeds"]), **TOLERANCE)
        tokens, mask = found[f"{side}_token_embeds"], found[f"{side}_token_mask"]
        wanted, wanted_mask = pick(expected[f"{side}_token_embeds"]), pick(expected[f"{side}_token_mask"])
        torch.testing.assert_close(tokens[mask], wanted[wanted_mask], **TOLERANCE)
        assert not tokens[~mask].any()


def test_each_sample_alone_gives_what_the_batch_gives(model: TGDTModel) -> None:
    inputs = inputs_of(model)
    batch = run(model, inputs)
    for row in range(tiny.BATCH):
        alone = run(model, {name: value[row : row + 1] for name, value in inputs.items()})
        assert_same(alone, batch, lambda x, row=row: x[row : row + 1])
        torch.testing.assert_close(alone.logits_per_image[0, 0], batch.logits_per_image[row, row], **TOLERANCE)


def test_each_sample_without_its_padding_gives_what_the_batch_gives(model: TGDTModel) -> None:
    inputs = inputs_of(model)
    batch = run(model, inputs)
    lengths = {"attention_mask": "input_ids attention_mask", "region_mask": "region_features region_boxes region_mask"}
    for row in range(tiny.BATCH):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        for mask, names in lengths.items():
            if mask in alone:
                alone |= {name: alone[name][:, : int(inputs[mask][row].sum())] for name in names.split()}
        found = run(model, alone)
        assert_same(found, batch, lambda x, row=row: x[row : row + 1])
        torch.testing.assert_close(found.logits_per_image[0, 0], batch.logits_per_image[row, row], **TOLERANCE)


def test_order_of_the_batch_changes_nothing(model: TGDTModel) -> None:
    inputs = inputs_of(model)
    order = torch.randperm(tiny.BATCH, generator=torch.Generator().manual_seed(0))
    expected, found = run(model, inputs), run(model, {name: value[order] for name, value in inputs.items()})
    assert_same(found, expected, lambda x: x[order])
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image[order][:, order], **TOLERANCE)


def pad(inputs: Inputs, side: str) -> Inputs:
    """Append or prepend garbage under the masks."""
    places = (3, 0) if side == "left" else (0, 3)
    padded = dict(inputs)
    padded["input_ids"] = F.pad(inputs["input_ids"], places, value=7)
    padded["attention_mask"] = F.pad(inputs["attention_mask"], places)
    if "region_mask" in inputs:
        padded["region_features"] = F.pad(inputs["region_features"], (0, 0, *places), value=11.0)
        padded["region_boxes"] = F.pad(inputs["region_boxes"], (0, 0, *places), value=0.7)
        padded["region_mask"] = F.pad(inputs["region_mask"], places)
    return padded


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_more_padding_changes_nothing(model: TGDTModel, side: str, attention: str) -> None:
    model.set_attn_implementation(attention)
    inputs = inputs_of(model)
    padded = pad(inputs, side)
    if side == "left":  # positions belong to the words, wherever the padding stands; BERT counts from the edge
        positions = (padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        if model.config.text_config.model_type == "bert":
            padded["position_ids"] = positions
        elif model.config.text_config.model_type == "roberta":
            padded["position_ids"] = positions + model.config.text_config.pad_token_id + 1
            inputs["position_ids"] = padded["position_ids"][:, 3:]
    expected, found = run(model, inputs), run(model, padded)
    assert_same(found, expected)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image, **TOLERANCE)


def test_content_under_the_masks_changes_nothing(model: TGDTModel) -> None:
    inputs = inputs_of(model)
    changed = {name: value.clone() for name, value in inputs.items()}
    changed["input_ids"][inputs["attention_mask"] == 0] = 5
    if "region_mask" in inputs:
        changed["region_features"][~inputs["region_mask"]] = torch.nan
        changed["region_boxes"][~inputs["region_mask"]] = 9.0
    expected, found = run(model, inputs), run(model, changed)
    assert_same(found, expected)
    assert torch.equal(found.logits_per_image, expected.logits_per_image)


def test_loss_ignores_padding() -> None:
    model, inputs = tiny.tiny_model(), tiny.text_inputs() | tiny.region_inputs()
    expected, found = (model(**x, return_loss=True).loss for x in (inputs, pad(inputs, "right")))
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_batches_may_differ_in_size() -> None:
    model = tiny.tiny_model()
    images, texts = tiny.region_inputs(3), tiny.text_inputs(5)
    whole = run(model, tiny.region_inputs(3) | texts)
    assert whole.logits_per_image.shape == (3, 5) and torch.equal(whole.logits_per_text, whole.logits_per_image.T)
    with pytest.raises(ValueError, match="found 3 images and 5 captions"):
        model(**images, **texts, return_loss=True)


def test_degenerate_inputs_stay_finite() -> None:
    """A caption without words, a caption of padding alone and an image without regions score, and train."""
    model, inputs = tiny.tiny_model(), tiny.text_inputs() | tiny.region_inputs()
    inputs["attention_mask"][0] = 0
    inputs["attention_mask"][1, 2:] = 0
    inputs["region_mask"][2] = False
    output = model(**inputs, return_loss=True)
    output.loss.backward()
    assert output.logits_per_image.isfinite().all() and not output.text_token_mask[:2].any()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_padding_has_finite_gradients_in_every_precision(dtype: torch.dtype) -> None:
    model = tiny.tiny_model(None, num_local_layers=0, num_global_layers=0, box_encoding="none").to(dtype).train()
    inputs = {**tiny.text_inputs(), **tiny.region_inputs()}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    model(**inputs, return_loss=True).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
