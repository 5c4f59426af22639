"""Training by recipe, through the command line, on scenes of a few pictures."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from PIL import Image
from transformers import BertConfig, BertModel, CLIPImageProcessor, ResNetConfig, ResNetModel

from hub_cards.tables import results_table
from modeling_tgdt import TGDTModel, TGDTProcessor, TGDTRetriever
from modeling_tgdt.retriever.hubness import HubnessOptions
from trainer.cli import VERBS, main
from trainer.datasets import load_captions
from trainer.recipe import Recipe, load_recipe
from trainer.report import plot_curves, write_json
from trainer.run import build, load_pretrained, load_splits
from trainer.scenes.splits import DRAWN
from trainer.scenes.weights import shipped
from trainer.tokenizers import build_word_tokenizer

ROOT = Path(__file__).parents[2]
TINY = [
    "image_size=32", "vision_model=null", "vision_config={model_type: vit, image_size: 32, patch_size: 8, "
    "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 4, intermediate_size: 32}",
    "text_config.hidden_size=16", "text_config.num_hidden_layers=1", "model.projection_dim=16", "training.max_steps=2",
    "training.freeze=[]", "training.cache_vision_tokens=false", "training.per_device_train_batch_size=8",
    "training.logging_steps=1", "training.use_cpu=true", "training.disable_tqdm=true",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    original = DRAWN["scenes"]
    DRAWN["scenes"] = {"train": (24, 0, 1), "validation": (12, 1, 1)}
    yield
    DRAWN["scenes"] = original


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--output", str(output), "--set", *TINY]) == 0
    return output


def test_the_demo_writes_everything(demo, capsys):
    run = json.loads((demo / "run.json").read_text())
    assert run["results"] == json.loads((demo / "metrics.json").read_text())
    assert set(run["results"]) == {"global", "local", "exhaustive", "two_stage"}
    assert run["recipe"]["training"]["max_steps"] == 2 and run["history"] and run["seconds"]
    for name in ("demo.png", "curves.png"):
        with Image.open(demo / name) as picture:
            assert min(picture.size) > 200
    details = json.loads((demo / "details.json").read_text())
    assert {"all"} < set(details["look_alikes"]) and set(details["grounding"]) == {"all", "colour", "shape", "size"}
    retriever = TGDTRetriever.from_pretrained(demo)
    assert len(retriever.search("a red star", top_k=3)) == 3


def test_the_demo_starts_from_the_weights_of_the_package(demo):
    run, model = json.loads((demo / "run.json").read_text()), TGDTModel.from_pretrained(demo)
    assert run["model"] == "tgdt:scenes-model" and run["base_models"] == []
    start = dict(TGDTModel.from_pretrained(shipped("tgdt:scenes-model"), dtype=torch.float32).named_parameters())
    distances = [float((start[name] - value).detach().abs().max()) for name, value in model.named_parameters()]
    assert 0 < max(distances) < 0.01  # two steps further


def test_a_warm_start_is_for_new_models(demo, tmp_path):
    never_trained = [*TINY, "training.learning_rate=0.0", "training.weight_decay=0.0", "warm_start=true"]
    options = ["train", "--recipe", "scenes", "--set", *never_trained, "attn_implementation=eager", "--output"]
    assert main([*options, str(tmp_path / "new")]) == 0
    assert "warm start" in json.loads((tmp_path / "new/run.json").read_text())["seconds"]
    assert main([*options, str(tmp_path / "tuned"), "--model", str(tmp_path / "new")]) == 0
    assert "warm start" not in json.loads((tmp_path / "tuned/run.json").read_text())["seconds"]
    new, tuned = (TGDTModel.from_pretrained(tmp_path / name).visual_projection for name in ("new", "tuned"))
    assert bool(new.bias.any()) and bool((new.weight == tuned.weight).all())


@pytest.mark.parametrize("is_half_written", [False, True])
def test_resume_without_a_whole_checkpoint_starts_as_a_new_run_does(tmp_path, is_half_written):
    if is_half_written:
        (tmp_path / "checkpoints/checkpoint-1").mkdir(parents=True)
    options = [*TINY, "warm_start=true", "training.save_strategy=steps", "training.save_steps=1"]
    command = ["train", "--recipe", "scenes", "--output", str(tmp_path), "--resume", "--set", *options]
    for is_warm in (True, False):
        assert main(command) == 0
        assert ("warm start" in json.loads((tmp_path / "run.json").read_text())["seconds"]) == is_warm


@pytest.fixture(scope="module")
def own_photos(tmp_path_factory):
    """A folder as anybody has it: pictures, one captions.csv, no split."""
    folder = tmp_path_factory.mktemp("own")
    lines = ["file_name,caption"]
    for number in range(24):
        Image.new("RGB", (40, 30), (10 * number, 30, 90)).save(folder / f"{number}.png")
        lines += [f"{number}.png,a {kind} of shade {number}" for kind in ("box", "plate")]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def test_photos_without_splits_are_evaluated_on_photos_held_out(own_photos, tmp_path, capsys):
    command = ["train", "--recipe", "scenes", "--dataset", str(own_photos), "--output", str(tmp_path)]
    assert main([*command, "--set", *TINY]) == 0
    assert "Evaluated on: 2 held-out photos of 24" in capsys.readouterr().out
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["evaluated"] == "2 held-out photos of 24" and run["dataset"] == f"./{own_photos.name}"
    card = (tmp_path / "README.md").read_text()
    assert "Split `2 held-out photos of 24`" in card and "Drawn by the package" not in card


def test_held_out_photos_are_the_same_in_every_run_and_never_trained_on(own_photos, tmp_path, caplog):
    recipe = load_recipe("flickr8k")
    with caplog.at_level(logging.WARNING):
        train, evaluation, name = load_splits(recipe, own_photos, None, None)
    assert "2 of 24 photos are held out" in caplog.text and "captions_validation.csv" in caplog.text
    trained, held = set(train["image_id"]), set(evaluation["image_id"])
    assert (len(trained), len(held), name) == (22, 2, "2 held-out photos of 24") and not trained & held
    backwards = (own_photos / "captions.csv").read_text().splitlines()
    (tmp_path / "captions.csv").write_text("\n".join([backwards[0], *reversed(backwards[1:])]))
    again = load_splits(recipe, tmp_path / "captions.csv", None, own_photos)[1]
    assert set(again["image_id"]) == held
    (tmp_path / "captions.csv").write_text("\n".join(backwards[:3]))
    with pytest.raises(ValueError, match="at least 2 photos.*found 1"):
        load_splits(recipe, tmp_path / "captions.csv", None, own_photos)


def test_splits_of_ones_own_are_used(own_photos, tmp_path):
    lines = (own_photos / "captions.csv").read_text().splitlines()
    for split, rows in (("train", lines[1:41]), ("validation", lines[41:])):
        (tmp_path / f"captions_{split}.csv").write_text("\n".join([lines[0], *rows]))
    Image.new("RGB", (8, 8)).save(tmp_path / "any.png")
    train, evaluation, name = load_splits(load_recipe("flickr8k"), tmp_path, None, own_photos)
    assert (len(train), len(evaluation), name) == (20, 4, "validation")


def test_a_trained_model_keeps_its_shape(demo, caplog):
    own = TGDTModel.from_pretrained(demo).config
    shape = {"num_attention_heads": 1, "num_local_layers": 5, "projection_dim": 64}
    with caplog.at_level(logging.WARNING):
        model, _ = load_pretrained(str(demo), Recipe(model={**shape, "margin": 0.45, "local_score_weight": 0.5}))
    assert {name: getattr(model.config, name) for name in shape} == {name: getattr(own, name) for name in shape}
    assert (model.config.margin, model.config.local_score_weight) == (0.45, 0.5)
    assert f"keeps its own num_attention_heads={own.num_attention_heads}, num_local_layers=" in caplog.text
    assert "margin" not in caplog.text


def save_backbones(folder):
    """Write a vision backbone `cells` and a text backbone `words`, tiny and random."""
    ResNetModel(ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8)).save_pretrained(folder / "cells")
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(folder / "cells")
    tokenizer = build_word_tokenizer(["a red star", "a blue box", "a plate of shade"])
    tokenizer.save_pretrained(folder / "words")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**small, vocab_size=len(tokenizer))).save_pretrained(folder / "words")


def test_a_folder_of_ones_own_is_trained_without_a_recipe(own_photos, tmp_path, capsys):
    save_backbones(tmp_path)
    output = tmp_path / "model"
    backbones = ["--vision-model", str(tmp_path / "cells"), "--text-model", str(tmp_path / "words")]
    small = ["model.projection_dim=16", "training.num_train_epochs=2", "training.use_cpu=true"]
    command = ["train", "--dataset", str(own_photos), "--output", str(output), *backbones, "--set", *small]
    assert main(command) == 0
    run = json.loads((output / "run.json").read_text())
    measured = [entry["eval_rsum"] for entry in run["history"] if "eval_rsum" in entry]
    assert len(measured) == 3 and run["results"]["two_stage"]["rsum"] >= 0  # before the first step, after each epoch
    last = run["history"][-1]
    assert (last["start_rsum"], last["end_rsum"]) == (measured[0], max(measured))
    assert f"rsum before the first step {measured[0]:.1f}" in capsys.readouterr().out
    assert not (output / "token_cache").exists() and (output / "checkpoints").is_dir()
    assert "Flickr8k" not in (output / "README.md").read_text()
    assert (run["photos"], run["recipe"]["calibrate"]) == ({"train": 20, "calibration": 2, "evaluation": 2}, True)


def test_splits_in_memory_are_taken(own_photos):
    train = load_captions(own_photos)
    splits = DatasetDict(train=train, validation=train.select(range(3)))
    found, evaluation, evaluated = load_splits(Recipe(), splits, None, None)
    assert (len(found), len(evaluation), evaluated) == (len(train), 3, "validation")


def test_a_recipe_says_how_large_pictures_are(tmp_path):
    save_backbones(tmp_path)
    sizes = {"projection_dim": 16, "num_local_layers": 1, "num_global_layers": 1, "intermediate_size": 32}
    recipe = Recipe(vision_model=str(tmp_path / "cells"), text_model=str(tmp_path / "words"), model=sizes)
    picture = Image.new("RGB", (120, 80))
    for side, expected, cells in ((None, (64, 64), 64), (96, (96, 96), 144)):
        recipe.image_size = side
        model, processor = build(recipe, None)
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        assert pixels.shape[2:] == expected and processor.image_processor.do_center_crop == (side is None)
        assert model.eval().get_image_features(pixel_values=pixels).last_hidden_state.shape[1] == cells


def test_fine_tuning_and_evaluation_of_a_saved_model(demo, tmp_path, capsys):
    output = tmp_path / "tuned"
    options = ["--dataset", "scenes", "--model", str(demo), "--output", str(output), "--set", *TINY]
    assert (
        main(
            ["train", "--recipe", "scenes", *options, "model.margin=0.3", "model.objective=hinge", "vision_model=a/b",
             "reference_photos=7"]
        )
        == 0
    )  # fmt: skip
    assert "a/b" not in (output / "README.md").read_text()
    run = json.loads((output / "run.json").read_text())
    assert (run["model"], run["base_models"], run["evaluated"]) == (f"./{demo.name}", [], "validation")
    assert "| two_stage |" in capsys.readouterr().out
    assert TGDTModel.from_pretrained(output).config.margin == 0.3
    assert isinstance(TGDTProcessor.from_pretrained(output), TGDTProcessor)
    lines = [{"image": "a.png", "captions": ["a red star"]}, {"image": "b.png", "captions": ["a blue box", "a box"]}]
    (tmp_path / "photos.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (40, 30), (200 * number, 30, 90)).save(tmp_path / name)
    command = ["evaluate", "--model", str(output), "--dataset", str(tmp_path / "photos.jsonl"), "--sweep", "1"]
    assert main([*command, "--reduction", "mean", "sum", "--output", str(tmp_path / "metrics.json")]) == 0
    assert "any caption" in capsys.readouterr().out
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["global"]["rsum"] > 0 and {"global_hubness", "two_stage_hubness_sum"} <= set(found)
    bank = HubnessOptions.from_pretrained(output)
    assert (
        run["precision"] == "float32"
        and bank is not None
        and len(bank.image_embeds) == 7
        and run["results"]["two_stage_hubness"]["rsum"] > 0
    )


@pytest.mark.parametrize(
    ("weights", "terms", "mode"),
    [
        (["model.local_loss_weight=0"], {"loss_global", "loss_intra"}, "global"),
        (["model.global_loss_weight=0", "model.intra_loss_weight=0"], {"loss_local"}, "local"),
        (["training.train_stage=local"], {"loss_local"}, "local"),
        (["model.intra_loss_weight=0", "model.distill_loss_weight=1"], {"loss_global", "loss_local", "loss_distill"},
         "two_stage"),
    ],
)  # fmt: skip
def test_ablations_train_and_evaluate_in_their_modes(weights, terms, mode, tmp_path, capsys):
    output = tmp_path / "run"
    options = [f"training.eval_modes=[{mode}]", "training.eval_strategy=epoch", "training.mini_batch_size=3"]
    command = ["train", "--recipe", "scenes", "--output", str(output), "--set", *TINY, *weights, *options]
    assert main(command) == 0
    history = json.loads((output / "run.json").read_text())["history"]
    found = {key for entry in history for key in entry if key.startswith("loss_")}
    assert found == terms
    assert any(f"eval_{mode}_rsum" in entry for entry in history)
    assert TGDTModel.from_pretrained(output).config.projection_dim == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "nope", "--output", "x"], "No recipe 'nope'"),
        (["train", "--recipe", "flickr8k", "--output", "x", "--set", "model.x=1"], "Unknown key 'x' in model"),
        (["train", "--recipe", "flickr8k", "--output", "x", "--set", "training.hub_token=hf_x"], "hf auth login"),
        (["train", "--recipe", "flickr8k", "--output", "x", "--model", "m", "--text-model", "t"], "its own backbones"),
        (["evaluate", "--model", "/nowhere/at/all", "--dataset", "/nowhere.jsonl"], "no file or folder"),
        (["convert", "/nowhere.pth.tar", "out"], "No checkpoint at"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"tgdt {arguments[0]}: error:") and message in error


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_documents_itself(verb):
    command = [sys.executable, "-m", "trainer.cli", verb, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "usage: tgdt" in result.stdout


def test_report(tmp_path):
    table = results_table({"global": {"rsum": 12.34, "i2t_r1": 1.0}, "two_stage": {"stage1_recall": 99.0}})
    assert "| global | 1.0 |" in table and "12.3" in table and "99.0" in table
    write_json(tmp_path / "a.json", {"b": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_global_rsum": 50.0}]
    assert plot_curves(history, tmp_path / "curves.png").is_file()
