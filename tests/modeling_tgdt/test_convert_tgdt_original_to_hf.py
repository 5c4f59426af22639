"""Parity with the recorded reference, and refusal of what is not its checkpoint."""

import argparse
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_tgdt import TGDTModel
from modeling_tgdt.convert_tgdt_original_to_hf import convert_checkpoint, convert_state_dict
from tests.reference import BATCHES, CHECKPOINT, TEXT_CONFIG, load_batch, model_inputs

TOLERANCE = {"rtol": 0, "atol": 2e-5}
SCORE_TOLERANCE = {"rtol": 0, "atol": 2e-4}


@pytest.fixture(scope="module")
def model():
    return convert_checkpoint(CHECKPOINT, text_config=TEXT_CONFIG)


def set_mode(model, padding_mode="masked", token_source="local"):
    model.config.padding_mode, model.config.token_source = padding_mode, token_source
    return model


@pytest.fixture(autouse=True)
def default_mode(model):
    yield
    set_mode(model)


def assert_matches(outputs, batch, prefix):
    """Compare embeddings: globals, and tokens where they are real regions or words (rows elsewhere are zero)."""
    torch.testing.assert_close(outputs.image_embeds, batch[f"{prefix}.img_emb_aggr"], **TOLERANCE)
    torch.testing.assert_close(outputs.text_embeds, batch[f"{prefix}.cap_emb_aggr"], **TOLERANCE)
    regions = batch[f"{prefix}.img_feats"].transpose(0, 1)[:, 1:]
    words = batch[f"{prefix}.cap_feats"].transpose(0, 1)
    for ours, theirs, mask in (
        (outputs.image_token_embeds, regions, outputs.image_token_mask),
        (outputs.text_token_embeds, words, outputs.text_token_mask),
    ):
        torch.testing.assert_close(ours, theirs * mask[..., None], **TOLERANCE)


@pytest.mark.parametrize("name", ["equal", "ragged"])
@pytest.mark.parametrize(("prefix", "token_source"), [("solo_test", "local"), ("solo_train", "global")])
def test_default_conversion_equals_each_sample_alone(model, name, prefix, token_source):
    batch = load_batch(name)
    with torch.no_grad():
        assert_matches(set_mode(model, token_source=token_source)(**model_inputs(batch)), batch, prefix)


def test_a_single_sample_needs_no_mode(model):
    batch = load_batch("single")
    with torch.no_grad():
        assert_matches(model(**model_inputs(batch)), batch, "test")


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(("prefix", "token_source"), [("test", "local"), ("train", "global")])
def test_reference_padding_reproduces_batched_outputs(model, name, prefix, token_source):
    batch = load_batch(name)
    with torch.no_grad():
        outputs = set_mode(model, "reference", token_source)(**model_inputs(batch))
    assert_matches(outputs, batch, prefix)
    expected = batch[f"{prefix}.sim_global"] + batch[f"{prefix}.sim_local"]
    torch.testing.assert_close(outputs.logits_per_image, expected, **SCORE_TOLERANCE)


def test_word_mask_is_the_reference_cut(model):
    batch = load_batch("ragged")
    with torch.no_grad():
        outputs = model(**model_inputs(batch))
    assert outputs.text_token_mask.sum(1).tolist() == (batch["in.cap_len"] - 3).tolist()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_every_attention_implementation_matches(model, attn_implementation):
    model.set_attn_implementation(attn_implementation)
    batch = load_batch("ragged")
    with torch.no_grad():
        assert_matches(model(**model_inputs(batch)), batch, "solo_test")


def test_training_loss_and_gradient_reach(model):
    """Manifest, train_step_ragged.as_released: losses, and gradients in the two global encoders only."""
    set_mode(model, "reference", "global")
    outputs = model(**model_inputs(load_batch("ragged")), return_loss=True)
    components = outputs.loss_components
    assert float(components["global"] + components["intra"]) == pytest.approx(3.249376058578491, rel=1e-5)
    assert float(components["local"]) == pytest.approx(36.68415451049805, rel=1e-5)
    model.zero_grad()
    outputs.loss.backward()
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"vision_global_encoder", "text_global_encoder"}
    model.zero_grad()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch-1.3-format"])
def test_pth_equals_safetensors(tmp_path, model, legacy):
    path = tmp_path / "model_best_rsum.pth.tar"
    content = {
        "epoch": 3,
        "model": {f"module.{name}": value for name, value in load_file(CHECKPOINT).items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "scheduler": None,
        "opt": argparse.Namespace(config="coco.yaml", workers=2),
        "config": {"training": {"bs": 30}},
        "Eiters": 7,
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    converted = convert_checkpoint(path, text_config=TEXT_CONFIG).state_dict()
    assert converted.keys() == model.state_dict().keys()
    assert all(torch.equal(converted[name], value) for name, value in model.state_dict().items())


def test_every_key_is_accounted_for_and_the_model_round_trips(tmp_path, model):
    convert_checkpoint(CHECKPOINT, tmp_path, text_config=TEXT_CONFIG)
    report = json.loads((tmp_path / "conversion_report.json").read_text())
    source = load_file(CHECKPOINT)
    assert report["used"].keys() | report["unused"].keys() == source.keys()
    assert not report["used"].keys() & report["unused"].keys()
    # 22 parameters that no gradient ever reaches (SPEC, section 4), and the duplicate of the word embeddings.
    assert len(report["unused"]) == 22 + 1
    assert sorted(name for names in report["used"].values() for name in names) == sorted(model.state_dict())
    reloaded = TGDTModel.from_pretrained(tmp_path)
    batch = model_inputs(load_batch("equal"))
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**batch).logits_per_image, model(**batch).logits_per_image)


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_file_is_executed(tmp_path):
    torch.save({"model": {}, "opt": Exploit(tmp_path / "owned")}, tmp_path / "bad.pth.tar")
    with pytest.raises(ValueError, match="not a readable TGDT checkpoint"):
        convert_checkpoint(tmp_path / "bad.pth.tar")
    assert not (tmp_path / "owned").exists()


def drop(state, name):
    del state[f"img_txt_enc.{name}"]


def rename(state, name):
    state[f"img_txt_enc.{name}.other"] = state.pop(f"img_txt_enc.{name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop(s, "cap_proj.bias"), "missing text_projection.bias"),
        (lambda s: drop(s, "img_proj.weight"), "Expected a whole TGDT checkpoint"),
        (lambda s: rename(s, "img_proj.weight"), "1 of 188 tensors are unknown"),
        (lambda s: s.update({"img_txt_enc.img_proj.bias": torch.zeros(3)}), r"visual_projection.bias is \(3,\)"),
        (lambda s: s["img_txt_enc.txt_enc.word_embeddings.weight"].add_(1), "should repeat"),
        (lambda s: (s.clear(), s.update(w=torch.zeros(1))), "Not a TGDT checkpoint"),
    ],
)
def test_wrong_files_are_refused(tmp_path, change, message):
    state = load_file(CHECKPOINT)
    change(state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "wrong.safetensors", text_config=TEXT_CONFIG)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "noise.pth.tar").write_bytes(b"not a checkpoint")
    (tmp_path / "noise.safetensors").write_bytes(b"not a checkpoint")
    for name in ("noise.pth.tar", "noise.safetensors"):
        with pytest.raises(ValueError, match="not a readable TGDT checkpoint"):
            convert_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        convert_checkpoint(tmp_path / "absent.pth.tar")
    torch.save([1, 2], tmp_path / "list.pth.tar")
    with pytest.raises(ValueError, match="holds no state dict"):
        convert_checkpoint(tmp_path / "list.pth.tar")


def test_number_of_heads_is_asked_for_when_it_cannot_be_told():
    with pytest.raises(ValueError, match="Pass text_config"):
        convert_checkpoint(CHECKPOINT)


def test_shared_local_encoder_is_recognised(tmp_path):
    state = {name: t for name, t in load_file(CHECKPOINT).items() if "transformer_encoder_2" not in name}
    save_file(state, tmp_path / "shared.safetensors")
    converted = convert_checkpoint(tmp_path / "shared.safetensors", text_config=TEXT_CONFIG)
    assert converted.config.share_local_encoder
    assert "vision_local_encoder" not in {name.split(".")[0] for name in convert_state_dict(state)[0]}
