# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""transformers' common model suite over a region model and a ViT-backed model."""

import unittest
from typing import Any

from modeling_tgdt import TGDTConfig, TGDTModel
from tests.modeling_tgdt import tiny
from tests.transformers_suites import common_suite

ModelTesterMixin = common_suite("test_modeling_common", "ModelTesterMixin")


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
