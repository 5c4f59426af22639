# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTModel over every pair of backbones, with random weights and from pretrained directories."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    BertModel,
    PreTrainedConfig,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTMAEConfig,
    YolosConfig,
)

from modeling_tgdt import TGDTConfig, TGDTModel
from modeling_tgdt.backbones_tgdt import build_backbone, grid_boxes, grid_tokens
from tests.modeling_tgdt import tiny
from tests.modeling_tgdt.backbones import COMPOSITE, IMAGE, LAYERS, SIGLIP2, TEXT, VISION

PAIRS = {f"{text}-{vision}": (TEXT[text], VISION[vision]) for text in TEXT for vision in VISION}
PAIRS |= {f"{name}-towers": (config.text_config, config.vision_config) for name, config in COMPOSITE.items()}
PAIRS |= {"bert-siglip2": (TEXT["bert"], SIGLIP2)}
INPUTS = tiny.text_inputs(6) | tiny.pixel_inputs(6, size=IMAGE)


def compose(text: PreTrainedConfig, vision: PreTrainedConfig) -> TGDTModel:
    sizes: dict[str, Any] = {
        "projection_dim": 32,
        "num_local_layers": 1,
        "num_global_layers": 1,
        "intermediate_size": 37,
    }
    torch.manual_seed(0)
    # InfoNCE reads every pair; which words win a hardest-negative hinge is chance.
    sizes["text_global_token"] = "last" if text.model_type == "clip_text_model" else "first"
    config = TGDTConfig(
        text_config=copy.deepcopy(text), vision_config=copy.deepcopy(vision), objective="infonce", **sizes
    )
    return TGDTModel(config)


@pytest.mark.parametrize("pair", PAIRS)
def test_trains_saves_and_loads(pair: str, tmp_path: Path) -> None:
    model = compose(*PAIRS[pair]).train()
    model(**INPUTS, return_loss=True).loss.backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    model.eval().save_pretrained(tmp_path)
    loaded = TGDTModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected, found = model(**INPUTS), loaded(**INPUTS)
    for name in ("logits_per_image", "image_embeds", "text_embeds", "image_token_embeds", "text_token_embeds"):
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("name", [*VISION, "siglip2"])
def test_regions_are_the_cells_of_the_image(name: str) -> None:
    """Tokens follow the picture: what happens in one corner changes some cell of that corner most."""
    config = SIGLIP2 if name == "siglip2" else VISION[name]
    model = compose(TEXT["bert"], config).eval()
    pixels = tiny.pixel_inputs(1, size=IMAGE)["pixel_values"]
    for corner, cells in ((slice(0, 8), {0, 1, 4, 5}), (slice(-8, None), {10, 11, 14, 15})):
        changed = pixels.clone()
        changed[..., corner, corner] += 3
        with torch.no_grad():
            before, boxes, mask = model.encode_regions(pixels)
            after, _, _ = model.encode_regions(changed)
        assert before.shape[1] == len(boxes[0]) == 16 and mask.all()
        assert (after - before).norm(dim=-1)[0].argmax().item() in cells


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_cached_tokens_give_what_pixels_give(name: str) -> None:
    model = compose(TEXT["bert"], VISION[name]).eval()
    pixels = INPUTS["pixel_values"]
    with torch.no_grad():
        features, boxes, mask = model.encode_regions(pixels)
        cached = model.get_image_features(region_features=features, region_boxes=boxes, region_mask=mask)
        torch.testing.assert_close(cached.pooler_output, model.get_image_features(pixels).pooler_output)


@pytest.mark.parametrize("sides", [(32, 48), (48, 32)])
@pytest.mark.parametrize("name", ["dinov2", "swin", "convnext", "dinov3-convnext", "siglip2"])
def test_pictures_need_not_be_square(name: str, sides: tuple[int, int]) -> None:
    config = SIGLIP2 if name == "siglip2" else VISION[name]
    features = compose(TEXT["bert"], config).get_image_features(
        torch.randn(2, 3, *sides), interpolate_pos_encoding=True
    )
    assert features.last_hidden_state.shape[1] == sides[0] * sides[1] // 64


def tokens_of(model: torch.nn.Module, config: PreTrainedConfig, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return grid_tokens(model(pixel_values=pixels).last_hidden_state, pixels, config)[0]


@pytest.mark.parametrize(("text", "vision"), [("bert", "vit"), ("roberta", "dinov2"), ("modernbert", "resnet")])
def test_pretrained_backbones_keep_their_weights(text: str, vision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, config in (("text", TEXT[text]), ("vision", VISION[vision])):
        AutoModel.from_config(copy.deepcopy(config)).save_pretrained(tmp_path / name)
    model = TGDTModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), projection_dim=32, num_local_layers=1
    )
    assert not model.training and model.config.projection_dim == 32
    assert model.config.encoder_layer_type == "residual" and model.config.box_encoding == "sum"
    vision_model = AutoModel.from_pretrained(tmp_path / "vision")
    pixels = INPUTS["pixel_values"]
    features, _, _ = model.encode_regions(pixels)
    torch.testing.assert_close(features, tokens_of(vision_model, VISION[vision], pixels))
    words = {name: INPUTS[name] for name in ("input_ids", "attention_mask")}
    expected = AutoModel.from_pretrained(tmp_path / "text")(**words).last_hidden_state
    torch.testing.assert_close(model.text_model(**words).last_hidden_state, expected)


@pytest.mark.parametrize("name", COMPOSITE)
def test_towers_of_image_text_models_are_taken(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = AutoModel.from_config(copy.deepcopy(COMPOSITE[name])).eval()
    whole.save_pretrained(tmp_path / "whole")
    model = TGDTModel.from_vision_text_pretrained(
        str(tmp_path / "whole"),
        str(tmp_path / "whole"),
        projection_dim=32,
        num_local_layers=1,
        text_global_token="last",
    )
    pixels = INPUTS["pixel_values"]
    features, _, _ = model.encode_regions(pixels)
    torch.testing.assert_close(features, tokens_of(whole.vision_model, COMPOSITE[name].vision_config, pixels))
    words = {name: INPUTS[name] for name in ("input_ids", "attention_mask")}
    expected = whole.text_model(**words).last_hidden_state
    torch.testing.assert_close(model.text_model(**words).last_hidden_state, expected)
    model.save_pretrained(tmp_path / "tgdt")
    loaded = TGDTModel.from_pretrained(tmp_path / "tgdt")
    torch.testing.assert_close(loaded(**INPUTS).logits_per_image, model(**INPUTS).logits_per_image)


def test_swapped_backbones_are_told_apart(tmp_path: Path) -> None:
    for name, config in (("text", TEXT["bert"]), ("vision", VISION["resnet"])):
        AutoModel.from_config(copy.deepcopy(config)).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="Expected a text encoder, found .* a ResNetModel that reads pixel_values"):
        TGDTModel.from_vision_text_pretrained(str(tmp_path / "text"), str(tmp_path / "vision"), projection_dim=32)
    with pytest.raises(ValueError, match="Expected a vision encoder, found .* a BertModel that reads input_ids"):
        TGDTModel.from_vision_text_pretrained(str(tmp_path / "text"), str(tmp_path / "text"), projection_dim=32)


def test_text_alone_makes_a_region_model(tmp_path: Path) -> None:
    BertModel(TEXT["bert"]).save_pretrained(tmp_path)
    model = TGDTModel.from_vision_text_pretrained(
        None, str(tmp_path), dtype=torch.bfloat16, region_feature_size=16, projection_dim=32, box_encoding="concat"
    )
    assert model.config.box_encoding == "concat"
    assert model.dtype == torch.bfloat16 and model.vision_model is None
    assert len(model.region_encoder.layers) == 4


def test_whole_image_text_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="vision tower's own configuration"):
        TGDTConfig(vision_config=COMPOSITE["clip"])
    with pytest.raises(ValueError, match="found type 'tgdt'"):
        build_backbone(type("Unknown", (TGDTConfig,), {})())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (YolosConfig(**LAYERS, image_size=[IMAGE, IMAGE], patch_size=8), "4 x 4 tokens after at most 2 .* found 117"),
        (ViTMAEConfig(**LAYERS, image_size=IMAGE, patch_size=8), "'vit_mae' backbone, found 5 tokens"),
        (PreTrainedConfig(), "Expected a patch_size"),
    ],
)
def test_tokens_that_are_no_grid_are_refused(config: PreTrainedConfig, message: str) -> None:
    tokens = {"yolos": 117, "vit_mae": 5}.get(config.model_type, 17)
    pixels = tiny.pixel_inputs(1, size=IMAGE)["pixel_values"]
    if config.model_type:
        model = build_backbone(config).eval()
        assert model(pixels).last_hidden_state.shape[1] == tokens
    with pytest.raises(ValueError, match=message):
        grid_tokens(torch.zeros(1, tokens, 32), pixels, config)


@pytest.mark.parametrize(
    ("shape", "prefix"), [((1, 16, 32), 0), ((1, 21, 32), 5), ((1, 32, 4, 4), 0), ((1, 4, 4, 32), 0)]
)
def test_tokens_of_timm_encoders_are_a_grid(shape: tuple[int, ...], prefix: int) -> None:
    """As timm's SigLIP, DINOv2 with registers, ResNet and Swin give them; timm itself is not a dependency."""
    config = TimmWrapperConfig(num_features=32, patch_size=[8, 8], num_cls_tokens=prefix)
    hidden = torch.rand(shape)
    tokens, grid = grid_tokens(hidden, torch.zeros(1, 3, IMAGE, IMAGE), config)
    assert grid == (4, 4) and TGDTConfig(vision_config=config).region_feature_size == 32
    last = hidden[0, -1] if len(shape) == 3 else hidden[0, :, -1, -1] if shape[1] == 32 else hidden[0, -1, -1]
    assert tokens.shape == (1, 16, 32) and torch.equal(tokens[0, -1], last)


def test_an_encoder_of_timm_is_taken_up(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    options = {"img_size": IMAGE, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 2}
    source = TimmWrapperModel(TimmWrapperConfig(architecture="vit_base_patch16_siglip_224", model_args=options)).eval()
    source.save_pretrained(tmp_path / "vision")
    BertModel(TEXT["bert"]).save_pretrained(tmp_path / "text")
    model = TGDTModel.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), projection_dim=16, text_global_token="mean"
    )
    pixels = torch.rand(2, 3, IMAGE, IMAGE)
    torch.testing.assert_close(model.encode_regions(pixels)[0], source.timm_model.forward_features(pixels))
    model.save_pretrained(tmp_path / "model")
    loaded = TGDTModel.from_pretrained(tmp_path / "model").get_image_features(pixels)
    torch.testing.assert_close(loaded.pooler_output, model.get_image_features(pixels).pooler_output)
    model.train()(input_ids=torch.randint(5, 50, (2, 6)), pixel_values=pixels, return_loss=True).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_what_is_dropped_is_not_reported_and_what_is_missing_is(tmp_path: Path) -> None:
    model = BertModel(TEXT["bert"])
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler")}
    model.save_pretrained(tmp_path / "text", state_dict=state | {"cls.predictions.bias": torch.zeros(3)})
    torn = {name: value for name, value in state.items() if "layer.0.output.dense.weight" not in name}
    model.save_pretrained(tmp_path / "torn", state_dict=torn)
    seen: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")
    listener = logging.Handler()
    listener.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(listener)
    try:
        options = {"region_feature_size": 16, "projection_dim": 32}
        TGDTModel.from_vision_text_pretrained(None, str(tmp_path / "text"), **options)
        assert seen == []
        with pytest.raises(ValueError, match=r"weights of the BertModel, found 1 missing, such as encoder\.layer\.0"):
            TGDTModel.from_vision_text_pretrained(None, str(tmp_path / "torn"), **options)
    finally:
        logger.removeHandler(listener)


def test_pixels_are_refused_by_a_region_model() -> None:
    with pytest.raises(ValueError, match="from_vision_text_pretrained"):
        tiny.tiny_model().get_image_features(torch.zeros(1, 3, 8, 8))


def test_grid_boxes_cover_the_image_in_reading_order() -> None:
    boxes = grid_boxes(2, 4)
    torch.testing.assert_close(boxes[1], torch.tensor([0.25, 0.0, 0.5, 0.5]))
    torch.testing.assert_close(boxes[4], torch.tensor([0.0, 0.5, 0.25, 1.0]))
    torch.testing.assert_close(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum(), torch.tensor(1.0))
