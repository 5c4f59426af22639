# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""transformers' common model suite over a region model and a ViT-backed model."""

import unittest
from collections.abc import Callable
from typing import Any

import pytest
from transformers import CLIPConfig, SiglipConfig

from modeling_tgdt import TGDTConfig, TGDTModel
from tests.modeling_tgdt import tiny
from tests.transformers_suites import common_suite

ModelTesterMixin = common_suite("test_modeling_common", "ModelTesterMixin")
LAYERS = {"hidden_size": tiny.DIM, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TEXTS = LAYERS | {"vocab_size": tiny.VOCABULARY, "max_position_embeddings": 64}
PICTURES = LAYERS | {"image_size": tiny.IMAGE, "patch_size": tiny.PATCH}


class RegionTowerTester:
    """The image side of a region model, for the suite's tests of `get_image_features`."""

    num_hidden_layers = 2

    def prepare_config_and_inputs_for_common(self) -> tuple[TGDTConfig, dict[str, Any]]:
        return tiny.tiny_config(num_region_layers=2), tiny.region_inputs()


class RegionModelTester:
    """What the suite asks of a model: sizes, a configuration and inputs."""

    is_training = True
    batch_size, seq_length = tiny.BATCH, tiny.WORDS
    hidden_size, num_hidden_layers, num_attention_heads = tiny.DIM, 2, 4

    def __init__(self) -> None:
        self.vision_model_tester = RegionTowerTester()

    def get_config(self) -> TGDTConfig:
        return tiny.tiny_config(num_region_layers=2)

    def prepare_config_and_inputs_for_common(self) -> tuple[TGDTConfig, dict[str, Any]]:
        return self.get_config(), tiny.text_inputs() | tiny.region_inputs()


class PixelModelTester:
    is_training = True
    batch_size, seq_length = tiny.BATCH, tiny.WORDS
    hidden_size, num_hidden_layers, num_attention_heads = tiny.DIM, 2, 4

    def get_config(self) -> TGDTConfig:
        return tiny.tiny_config(tiny.vision_config())

    def prepare_config_and_inputs_for_common(self) -> tuple[TGDTConfig, dict[str, Any]]:
        return self.get_config(), tiny.text_inputs() | tiny.pixel_inputs()


class CommonModelTest(ModelTesterMixin):  # type: ignore[misc,valid-type]
    all_model_classes = (TGDTModel,)
    _is_composite = True

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        return inputs | {"return_loss": True} if return_labels else inputs

    # As in CLIP and every other dual encoder, hidden states and attentions are nested per tower, so there is no
    # `outputs.hidden_states`. test_get_{image,text}_features_{hidden_states,attentions} check those of each tower.
    @unittest.skip("hidden states and attentions are nested per tower")
    def test_attention_outputs(self) -> None: ...

    @unittest.skip("hidden states and attentions are nested per tower")
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip("hidden states and attentions are nested per tower")
    def test_retain_grad_hidden_states_attentions(self) -> None: ...


class RegionModelTest(CommonModelTest, unittest.TestCase):
    additional_model_inputs = ["region_features", "region_boxes", "region_mask"]
    skip_test_image_features_output_shape = True  # reads the shape of pixel_values, which this model does not take

    def setUp(self) -> None:
        self.model_tester = RegionModelTester()


class PixelModelTest(CommonModelTest, unittest.TestCase):
    additional_model_inputs = ["pixel_values"]

    def setUp(self) -> None:
        self.model_tester = PixelModelTester()


def clip_towers() -> CLIPConfig:
    return CLIPConfig(text_config=TEXTS, vision_config=PICTURES)


def siglip_towers() -> SiglipConfig:
    return SiglipConfig(text_config=TEXTS | {"projection_size": tiny.DIM}, vision_config=PICTURES)


@pytest.mark.parametrize("towers", [clip_towers, siglip_towers])
@pytest.mark.parametrize("name", ["gradient_checkpointing_backward_compatibility", "can_init_all_missing_weights"])
def test_towers_of_dual_encoders_pass_what_depends_on_the_tower(towers: Callable[[], Any], name: str) -> None:
    """CLIPModel itself does not pass the second: its `logit_scale` keeps another value than a new model's."""
    both = towers()

    class Case(CommonModelTest, unittest.TestCase):
        def setUp(self) -> None:
            self.model_tester = PixelModelTester()
            config = tiny.tiny_config(
                both.vision_config, text_config=both.text_config, text_global_token="last", num_region_layers=0
            )
            self.model_tester.get_config = lambda: config  # type: ignore[method-assign]

    if hasattr(Case, f"test_{name}"):
        Case(f"test_{name}").debug()
    else:
        pytest.skip("transformers' common suites are not unpacked")
