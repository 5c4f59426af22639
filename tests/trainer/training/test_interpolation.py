"""Mixed weights: the ends are the models themselves, and a scaled projection of the start counts at its new scale."""

from pathlib import Path

import pytest
import torch

from modeling_tgdt import TGDTModel, TGDTProcessor
from tests.modeling_tgdt.dual_encoders import TEXTS, pictures, save_dual_encoder
from tests.trainer.scenes_model import tiny_model
from trainer.training.head_scale import match_head_scale
from trainer.training.interpolation import interpolate_models


def test_weights_lie_between_and_refusals_name_the_reason() -> None:
    start, tuned = tiny_model(), tiny_model()
    with torch.no_grad():
        tuned.visual_projection.weight.add_(1.0)
    middle = interpolate_models(start, tuned, 0.25)
    torch.testing.assert_close(middle.visual_projection.weight, start.visual_projection.weight + 0.25)
    with pytest.raises(ValueError, match="alpha from 0"):
        interpolate_models(start, tuned, 1.5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_start_that_training_scaled_mixes_as_if_it_always_had_that_scale(tmp_path: Path, alpha: float) -> None:
    save_dual_encoder("vit-bert", tmp_path)
    start, scaled = (TGDTModel.from_dual_encoder_pretrained(str(tmp_path)) for _ in range(2))
    batch = TGDTProcessor.from_dual_encoder_pretrained(str(tmp_path))(
        text=TEXTS, images=pictures(), return_tensors="pt"
    )
    with torch.no_grad():
        for model in (start, scaled):
            model.text_projection.weight.mul_(1e-3)
        match_head_scale(scaled, batch)
        tuned = interpolate_models(scaled, scaled, 0.0)
        tuned.text_global_encoder.layers[0].fc2.bias.add_(0.2)
        expected = interpolate_models(scaled, tuned, alpha)(**batch)
        found = interpolate_models(start, tuned, alpha)(**batch)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)
