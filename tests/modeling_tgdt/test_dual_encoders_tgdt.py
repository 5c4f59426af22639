# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Dual encoders of transformers taken up: equal to their source through its own processor, saved, loaded, indexed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, CLIPModel, CLIPTextModel, ResNetConfig, ResNetModel

from modeling_tgdt import TGDTModel, TGDTProcessor, TGDTRetriever
from tests.modeling_tgdt.dual_encoders import FAMILIES, TEXTS, pictures, save_dual_encoder

Saved = dict[str, tuple[Path, Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root = tmp_path_factory.mktemp("dual")
    return {name: (root / name, *save_dual_encoder(name, root / name)) for name in FAMILIES}


def taken(saved: Saved, name: str) -> tuple[TGDTModel, dict[str, Any]]:
    folder = str(saved[name][0])
    processor = TGDTProcessor.from_dual_encoder_pretrained(folder)
    return TGDTModel.from_dual_encoder_pretrained(folder), dict(
        processor(text=TEXTS, images=pictures(), return_tensors="pt")
    )


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_equals_its_source(saved: Saved, name: str) -> None:
    _, source, inputs = saved[name]
    model, own = taken(saved, name)
    assert torch.equal(own["pixel_values"], inputs["pixel_values"])
    expected, found = source(**inputs), model(**own)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)
    config = model.config
    bias = config.sigmoid_bias if config.objective == "sigmoid" else 0
    logits = found.logits_per_image / config.temperature + bias
    torch.testing.assert_close(logits, expected.logits_per_image, atol=2e-5, rtol=0)
    assert (config.global_score_weight, config.local_score_weight) == (1, 0)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_texts_and_pictures_alone_give_what_a_batch_gives(saved: Saved, name: str) -> None:
    folder = str(saved[name][0])
    model, own = taken(saved, name)
    whole, processor = model(**own), TGDTProcessor.from_dual_encoder_pretrained(folder)
    for row, text in reversed(list(enumerate(TEXTS))):
        alone = model.get_text_features(**processor(text=[text], return_tensors="pt"))
        torch.testing.assert_close(alone.pooler_output[0], whole.text_embeds[row], atol=1e-5, rtol=0)
        words = [tokens[mask] for tokens, mask in zip(alone.last_hidden_state, alone.token_mask, strict=True)]
        torch.testing.assert_close(
            words[0], whole.text_token_embeds[row][whole.text_token_mask[row]], atol=1e-5, rtol=0
        )
    for row, picture in enumerate(pictures()):
        lone = model.get_image_features(**processor(images=[picture], return_tensors="pt"))
        torch.testing.assert_close(lone.pooler_output[0], whole.image_embeds[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit-bert"])
@torch.no_grad()
def test_tokens_go_through_the_projections_of_the_source(saved: Saved, name: str) -> None:
    """A token stands where the source would put a picture or text that pools to this token alone."""
    _, source, inputs = saved[name]
    model, own = taken(saved, name)
    found = model(**own)
    vision = source.vision_model(inputs["pixel_values"]).last_hidden_state
    if name == "clip":
        tokens = source.visual_projection(source.vision_model.post_layernorm(vision[:, 1:]))
        words = source.text_projection(source.text_model(**_texts(inputs)).last_hidden_state)
    elif name == "siglip":
        tokens = torch.stack([source.vision_model.head(vision[:, [place]]) for place in range(16)], dim=1)
        words = source.text_model.head(source.text_model(**_texts(inputs)).last_hidden_state)
    else:
        tokens = torch.stack(
            [source.visual_projection(source.vision_model.pooler(vision[:, [place]])) for place in range(1, 17)], 1
        )
        states = source.text_model(**_texts(inputs)).last_hidden_state
        pooled = [source.text_model.pooler(states[:, [place]]) for place in range(states.shape[1])]
        words = source.text_projection(torch.stack(pooled, dim=1))
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    torch.testing.assert_close(found.image_token_embeds, unit, atol=1e-5, rtol=0)
    mask = found.text_token_mask
    torch.testing.assert_close(
        found.text_token_embeds[mask], torch.nn.functional.normalize(words, dim=-1)[mask], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "readout"),
    [("clip", "value"), ("siglip", "value"), ("vit-bert", "value"), ("siglip-2", "value"), ("siglip", "last")],
)
@torch.no_grad()
def test_other_read_outs_move_the_patches_and_nothing_else(saved: Saved, name: str, readout: str) -> None:
    folder, source, inputs = saved[name]
    _, own = taken(saved, name)
    model = TGDTModel.from_dual_encoder_pretrained(str(folder), token_readout=readout)
    found, expected = model(**own), source(**inputs)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)
    assert found.vision_model_output.hidden_states is None
    assert len(model(**own, output_hidden_states=True).vision_model_output.hidden_states) == 3
    tower, pixels = source.vision_model, {key: inputs[key] for key in inputs if key.startswith(("pixel", "spatial"))}
    outputs = tower(**pixels, output_hidden_states=True)
    tokens = outputs.last_hidden_state if readout == "last" else _last_values(tower, outputs.hidden_states[-2])
    if name == "clip":
        tokens = source.visual_projection(tower.post_layernorm(tokens[:, 1:]))
    elif name == "vit-bert":
        tokens = tower.layernorm(tokens)[:, 1:]
        tokens = source.visual_projection(torch.tanh(tower.pooler.dense(tokens)))
    elif readout == "value":
        tokens = tower.post_layernorm(tokens)
        tokens = torch.stack([tower.head(tokens[:, [place]]) for place in range(tokens.shape[1])], dim=1).flatten(2)
    mask = found.image_token_mask
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    torch.testing.assert_close(found.image_token_embeds[mask], unit[mask], atol=1e-5, rtol=0)


def _last_values(tower: Any, states: torch.Tensor) -> torch.Tensor:
    """What the last attention gives where every token attends to itself alone, by its own forward pass."""
    layer = tower.layers[-1] if hasattr(tower, "layers") else tower.encoder.layers[-1]
    attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attention
    states = (layer.layer_norm1 if hasattr(layer, "layer_norm1") else layer.layernorm_before)(states)
    return torch.cat([attention(states[:, [place]])[0] for place in range(states.shape[1])], dim=1)


def test_a_read_out_that_a_tower_lacks_is_refused(saved: Saved) -> None:
    for name in ("align", "tipsv2"):
        with pytest.raises(
            ValueError, match="token_readout='value' reads the last attention.*Choose 'head' or 'last'"
        ):
            TGDTModel.from_dual_encoder_pretrained(str(saved[name][0]), token_readout="value")


def _texts(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}


@torch.no_grad()
def test_patches_of_any_grid_have_boxes(saved: Saved) -> None:
    model, own = taken(saved, "siglip-2")
    features = model.get_image_features(**{name: own[name] for name in own if "text" not in name and name[0] in "ps"})
    for boxes, mask, (rows, columns) in zip(
        features.token_boxes, features.token_mask, own["spatial_shapes"].tolist(), strict=True
    ):
        assert mask.sum() == rows * columns
        areas = (boxes[mask][:, 2] - boxes[mask][:, 0]) * (boxes[mask][:, 3] - boxes[mask][:, 1])
        torch.testing.assert_close(areas, torch.full_like(areas, 1 / (rows * columns)))
        assert boxes[mask].max() == pytest.approx(1) and not boxes[~mask].any()


@torch.no_grad()
def test_half_precision_stays_near(saved: Saved) -> None:
    folder, source, inputs = saved["clip"]
    model = TGDTModel.from_dual_encoder_pretrained(str(folder), dtype=torch.bfloat16)
    found = model(**taken(saved, "clip")[1])
    torch.testing.assert_close(found.image_embeds.float(), source(**inputs).image_embeds, atol=2e-2, rtol=0)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["clip", "siglip-2", "align"])
@torch.no_grad()
def test_saves_loads_and_trains(saved: Saved, name: str, tmp_path: Path) -> None:
    model, own = taken(saved, name)
    model.save_pretrained(tmp_path)
    loaded = TGDTModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**own).image_embeds, model(**own).image_embeds)
    with torch.enable_grad():
        pairs = {key: value[:2] for key, value in own.items()}
        model.train()(**pairs, return_loss=True).loss.backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    cached = dict(zip(("region_features", "region_boxes", "region_mask"), loaded.encode_regions(
        **{key: value for key, value in own.items() if key.startswith(("pixel", "spatial"))}
    ), strict=True))  # fmt: skip
    torch.testing.assert_close(loaded.get_image_features(**cached).pooler_output, loaded(**own).image_embeds)


def test_a_gallery_of_a_dual_encoder_opens_again(saved: Saved, tmp_path: Path) -> None:
    folder = str(saved["clip"][0])
    first = TGDTRetriever.from_pretrained(folder)
    first.create_index(tmp_path / "gallery")
    first.add_images(pictures(), ids=["a", "b"], progress=False)
    second = TGDTRetriever(*_pair(folder), first.index)
    hits = second.search("a red car")
    assert [hit.id for hit in hits] == [hit.id for hit in first.search("a red car", mode="global")]
    assert hits[0].local_score != hits[0].local_score, "untrained tokens take no part by default"
    assert len(second.explain(pictures()[0], "a red car").words) == 3


def _pair(folder: str) -> tuple[TGDTModel, TGDTProcessor]:
    return TGDTModel.from_dual_encoder_pretrained(folder), TGDTProcessor.from_dual_encoder_pretrained(folder)


def test_other_models_are_refused_with_the_way_out(saved: Saved, tmp_path: Path) -> None:
    folder = saved["clip"][0]
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)).save_pretrained(
        tmp_path / "bert"
    )
    ResNetModel(ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ValueError, match=r"type 'clip'.*from_dual_encoder_pretrained"):
        TGDTModel.from_pretrained(folder)
    for name in ("bert", "resnet"):
        with pytest.raises(ValueError, match=rf"type '{name}'.*from_vision_text_pretrained"):
            TGDTModel.from_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=rf"Expected a dual encoder.*type '{name}'"):
            TGDTModel.from_dual_encoder_pretrained(str(tmp_path / name))
    with pytest.raises(ValueError, match="text_global_token='last' or 'mean'"):
        TGDTModel.from_vision_text_pretrained(str(folder), str(folder), projection_dim=32, text_global_token="first")
    assert isinstance(CLIPModel.from_pretrained(folder).text_model, CLIPTextModel)


def test_missing_weights_are_an_error_unless_allowed(saved: Saved, tmp_path: Path) -> None:
    model, _ = taken(saved, "clip")
    weights = model.state_dict()
    del weights["visual_projection.weight"]
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 missing, such as visual_projection.weight. Pass strict=False"):
        TGDTModel.from_pretrained(tmp_path)
    assert TGDTModel.from_pretrained(tmp_path, strict=False).visual_projection.weight.isfinite().all()
