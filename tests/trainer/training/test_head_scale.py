"""Projections of a dual encoder come to the scale of fresh heads without changing an embedding."""

from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_tgdt import TGDTModel, TGDTProcessor
from tests.modeling_tgdt.dual_encoders import TEXTS, pictures, save_dual_encoder
from tests.trainer.scenes_model import scenes, tiny_model
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.training.head_scale import first_examples, match_head_scale, needs_scale


def taken_up(folder: Path) -> tuple[TGDTModel, TGDTProcessor]:
    save_dual_encoder("vit-bert", folder)
    model = TGDTModel.from_dual_encoder_pretrained(str(folder))
    with torch.no_grad():
        model.text_projection.weight.mul_(1e-3)
        model.visual_projection.weight.mul_(50.0)
    return model, TGDTProcessor.from_dual_encoder_pretrained(str(folder))


def test_sizes_become_one_and_embeddings_stay(tmp_path: Path) -> None:
    model, processor = taken_up(tmp_path)
    batch = processor(text=TEXTS, images=pictures(), return_tensors="pt")
    with torch.no_grad():
        before = model(**batch)
    assert needs_scale(model)
    divided = match_head_scale(model, batch)
    assert divided["text_projection"] < 0.1 and divided["visual_projection"] > 10
    with torch.no_grad():
        after = model(**batch)
    for name in ("image_embeds", "text_embeds", "image_token_embeds", "text_token_embeds"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=1e-5, rtol=0)
    sizes = {}
    for name in ("visual_projection", "text_projection"):
        slot = lambda _m, _i, output, name=name: sizes.update({name: output[:, 0].square().mean().sqrt().item()})  # noqa: E731
        getattr(model, name).register_forward_hook(slot)
    model.eval()(**batch)
    assert list(sizes.values()) == pytest.approx([1, 1], rel=1e-4)
    assert match_head_scale(model, batch) == {}  # within a factor of two nothing moves


def test_only_fresh_heads_of_a_dual_encoder_need_it(tmp_path: Path) -> None:
    model, _ = taken_up(tmp_path)
    assert not needs_scale(nn.Linear(2, 2)) and not needs_scale(tiny_model())
    model.config.local_score_weight = 1.0
    assert not needs_scale(model)
    model.config.local_score_weight = 0.0
    with torch.no_grad():
        model.text_global_encoder.layers[0].fc2.bias.add_(0.1)
    assert not needs_scale(model)


def test_the_trainer_does_it_before_the_first_step(tmp_path: Path) -> None:
    model, processor = taken_up(tmp_path / "source")
    text = model.text_projection.weight.detach().clone()
    arguments = CMCTrainingArguments(
        str(tmp_path / "run"), max_steps=1, learning_rate=0.0, weight_decay=0.0, per_device_train_batch_size=4,
        report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = CMCTrainer(model, arguments, train_dataset=scenes(8), processing_class=processor)
    trainer.train()
    assert (model.text_projection.weight.norm() / text.norm()).item() > 10
    assert len(first_examples(trainer.train_dataset)) == 16 and len(first_examples(iter("abc"))) == 3
