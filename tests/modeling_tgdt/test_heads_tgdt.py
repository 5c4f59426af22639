"""Encoder layers beside PyTorch's own, and where new ones begin."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from modeling_tgdt import TGDTModel
from modeling_tgdt.heads_tgdt import TGDTEncoder, TGDTEncoderLayer
from tests.modeling_tgdt import tiny

WIDTH, HEADS = 16, 4


def layer_pair(kind: str) -> tuple[TGDTEncoderLayer, nn.TransformerEncoderLayer]:
    """Our layer and PyTorch's with the same random weights."""
    torch.manual_seed(0)
    ours = TGDTEncoderLayer(tiny.tiny_config(encoder_layer_type=kind), WIDTH).eval()
    twin = nn.TransformerEncoderLayer(WIDTH, HEADS, 37, batch_first=True, norm_first=kind == "residual").eval()
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = {"linear1": "fc1", "linear2": "fc2", "norm1": "layer_norm1", "norm2": "layer_norm2"}
    state = {}
    for name, value in twin.state_dict().items():
        if "in_proj" in name:
            kind_of = name.rsplit("_", 1)[1]
            state |= {f"self_attn.{q}_proj.{kind_of}": part for q, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            module, _, kind_of = name.rpartition(".")
            state[f"{names.get(module, module)}.{kind_of}"] = value
    ours.load_state_dict(state)
    return ours, twin


@pytest.mark.parametrize("kind", ["post_norm", "residual"])
def test_layers_equal_those_of_pytorch(kind: str) -> None:
    ours, twin = layer_pair(kind)
    states = torch.randn(3, 5, WIDTH)
    torch.testing.assert_close(ours(states), twin(states), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["post_norm", "residual"])
def test_one_position_is_computed_as_among_all(kind: str) -> None:
    encoder = TGDTEncoder(tiny.tiny_config(encoder_layer_type=kind), WIDTH, 2).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    states, mask, position = torch.randn(3, 5, WIDTH), torch.rand(3, 5) < 0.7, torch.tensor([0, 4, 2])
    mask[torch.arange(3), position] = True
    whole = encoder(states, mask)[torch.arange(3), position]
    torch.testing.assert_close(encoder(states, mask, position), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_new_residual_model_gives_what_its_projections_give(training: bool) -> None:
    options = {"box_encoding": "none", "text_global_token": "mean", "num_region_layers": 2}
    model = tiny.tiny_model(encoder_layer_type="residual", **options).train(training)
    for module in model.text_model.modules():
        module.eval()  # the backbone's own dropout
    regions = tiny.region_inputs()
    images = model.get_image_features(**regions)
    mask = regions["region_mask"][..., None]
    projected = model.visual_projection(regions["region_features"])
    torch.testing.assert_close(images.last_hidden_state, F.normalize(projected, dim=-1) * mask)
    mean = (regions["region_features"] * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(images.pooler_output, F.normalize(model.visual_projection(mean), dim=-1))
    words = tiny.text_inputs()
    texts = model.get_text_features(**words)
    projected = model.text_projection(model.text_model(**words).last_hidden_state)
    torch.testing.assert_close(
        texts.last_hidden_state, F.normalize(projected, dim=-1) * texts.token_mask[..., None], atol=1e-6, rtol=1e-5
    )


def test_the_slot_of_mean_and_maximum_has_a_projection_of_its_own() -> None:
    model = tiny.tiny_model(encoder_layer_type="residual", box_encoding="none", image_global_token="mean_max").eval()
    regions = tiny.region_inputs()
    pooled = model.get_image_features(**regions).pooler_output
    for features, mask, embedding in zip(regions["region_features"], regions["region_mask"], pooled, strict=True):
        real = features[mask]
        slot = model.visual_global_projection(torch.cat([real.mean(0), real.max(0).values]))
        torch.testing.assert_close(embedding, F.normalize(slot, dim=-1))


def test_weights_that_a_checkpoint_lacks_start_as_the_identity_and_others_stay(tmp_path: Path) -> None:
    model = tiny.tiny_model(encoder_layer_type="residual", box_encoding="sum", box_initializer_range=5.0)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    model.save_pretrained(tmp_path)
    missing = ("text_local_encoder.layers.0.fc2.weight", "region_encoder.layers.0.self_attn.out_proj.weight")
    state = load_file(tmp_path / "model.safetensors")
    boxes = "region_embedding.fc1.weight"
    kept = {name: value for name, value in state.items() if name not in (*missing, boxes)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = TGDTModel.from_pretrained(tmp_path, strict=False).state_dict()
    assert all(not loaded[name].any() for name in missing)
    assert 3 < loaded[boxes].std() < 7
    assert all((loaded[name] == 0.5).all() for name in kept)
