# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTConfig: transformers' common suite, refusals, and that no field is dead."""

import dataclasses
import unittest
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig, ViTConfig

from modeling_tgdt import TGDTConfig, TGDTModel
from tests.modeling_tgdt import tiny
from tests.modeling_tgdt.test_modeling_tgdt import PixelModelTester, RegionModelTester
from tests.transformers_suites import common_suite

ConfigTester = common_suite("test_configuration_common", "ConfigTester")


@unittest.skipUnless(hasattr(ConfigTester, "run_common_tests"), "transformers' common suites are not unpacked")
class TGDTConfigTest(unittest.TestCase):
    def test_region_config(self) -> None:
        self.model_tester = RegionModelTester()
        ConfigTester(self, config_class=TGDTConfig, has_text_modality=False, projection_dim=64).run_common_tests()

    def test_pixel_config(self) -> None:
        self.model_tester = PixelModelTester()
        options = {"vision_config": tiny.vision_config().to_dict(), "text_config": tiny.text_config().to_dict()}
        ConfigTester(self, config_class=TGDTConfig, has_text_modality=False).run_common_tests()
        for config in (TGDTConfig(**options), self.model_tester.get_config()):
            assert TGDTConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


# Per field, a value that is not the tiny configuration's, with the options that make the field matter.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "text_config": (tiny.text_config(num_hidden_layers=1), {}),
    "vision_config": (tiny.vision_config(), {}),
    "region_feature_size": (20, {}),
    "projection_dim": (16, {}),
    "num_region_layers": (2, {}),
    "num_local_layers": (2, {}),
    "num_global_layers": (2, {}),
    "share_local_encoder": (True, {}),
    "encoder_layer_type": ("residual", {}),
    "num_attention_heads": (2, {}),
    "intermediate_size": (41, {}),
    "hidden_act": ("gelu", {}),
    "hidden_dropout_prob": (0.5, {}),
    "attention_probs_dropout_prob": (0.5, {}),
    "layer_norm_eps": (0.1, {}),
    "initializer_range": (0.1, {}),
    "box_encoding": ("sum", {}),
    "box_initializer_range": (0.4, {"box_encoding": "sum"}),
    "image_global_token": ("zeros", {}),
    "text_global_token": ("mean", {}),
    "detach_global_encoder": (True, {}),
    "num_prefix_tokens": (0, {}),
    "num_suffix_tokens": (2, {}),
    "word_weighting": ("learned", {}),
    "similarity_reduction": ("sum", {}),
    "similarity_scale": (10.0, {}),
    "global_score_weight": (2.0, {}),
    "local_score_weight": (2.0, {}),
    "objective": ("infonce", {}),
    "margin": (0.5, {}),
    "local_margin": (0.5, {}),
    "intra_margin": (0.0, {}),
    "global_loss_weight": (2.0, {}),
    "local_loss_weight": (2.0, {}),
    "intra_loss_weight": (2.0, {"intra_margin": 0.0}),
    "hardest_negatives": (False, {}),
    "temperature": (0.5, {"objective": "infonce"}),
    "local_temperature": (0.5, {"objective": "infonce"}),
    "sigmoid_bias": (-1.0, {"objective": "sigmoid"}),
    "local_sigmoid_bias": (-1.0, {"objective": "sigmoid"}),
    "learnable_temperature": (True, {"objective": "infonce"}),
    "distill_loss_weight": (1.0, {}),
    "distill_temperature": (0.5, {"distill_loss_weight": 1.0}),
    "matryoshka_dims": ([4], {}),
    "token_source": ("global", {}),
    "token_readout": ("value", {"vision_config": tiny.vision_config()}),
    "padding_mode": ("reference", {}),
}


def footprint(config: TGDTConfig) -> dict[str, Tensor]:
    """Everything that training and inference can see of a model: shapes, outputs, loss and gradients."""
    torch.manual_seed(0)
    model = TGDTModel(config).train()
    pixels = config.vision_config is not None
    images = tiny.pixel_inputs() if pixels else tiny.region_inputs(feature=config.region_feature_size)
    torch.manual_seed(1)
    output = model(**tiny.text_inputs(), **images, return_loss=True)
    output.loss.backward()
    seen = {name: output[name] for name in ("loss", "logits_per_image", "image_token_embeds", "text_token_embeds")}
    seen |= dict(model.named_parameters())
    seen |= {
        f"gradient of {name}": weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }
    return {name: value.detach().clone() for name, value in seen.items()}


INHERITED = {field.name for field in dataclasses.fields(PreTrainedConfig)}


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(TGDTConfig) if field.name not in INHERITED]
)
def test_every_field_changes_something(name: str) -> None:
    value, options = CHANGES[name]
    before, after = footprint(tiny.tiny_config(**options)), footprint(tiny.tiny_config(**(options | {name: value})))
    assert before.keys() != after.keys() or any(
        before[key].shape != after[key].shape or not torch.equal(before[key], after[key]) for key in before
    )


def test_the_same_configuration_changes_nothing() -> None:
    """The twin of the test above: it would also pass if two models always differed."""
    before, after = footprint(tiny.tiny_config()), footprint(tiny.tiny_config())
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_defaults_follow_the_kind_of_input() -> None:
    assert TGDTConfig().num_region_layers == 4 and TGDTConfig().text_config.model_type == "bert"
    config = TGDTConfig(vision_config=ViTConfig(hidden_size=24, num_attention_heads=4))
    assert (config.num_region_layers, config.region_feature_size) == (0, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_dim": 30}, "projection_dim must be a multiple of num_attention_heads, found 30 and 4"),
        ({"region_feature_size": 30}, "region_feature_size must be a multiple"),
        ({"num_local_layers": -1}, "num_local_layers must be at least 0, found -1"),
        ({"temperature": 0.0}, "temperature must be above 0, found 0.0"),
        ({"learnable_temperature": True}, "learnable_temperature needs the objective 'infonce' or 'sigmoid'"),
        ({"projection_dim": 8, "matryoshka_dims": [4, 8]}, "matryoshka_dims must be.*below projection_dim=8, found"),
        ({"matryoshka_dims": [64, 32]}, "matryoshka_dims must be ascending"),
        ({"matryoshka_dims": []}, "matryoshka_dims must be ascending"),
        ({"local_margin": 0.0}, "local_margin must be above 0, found 0.0"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be at least 0 and below 1, found 1.5"),
        ({"box_encoding": "polar"}, "polar"),
        ({"projection_dim": "wide"}, "wide"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        TGDTConfig(**options)
