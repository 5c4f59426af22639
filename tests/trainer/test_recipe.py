"""Recipes: everything in them is checked, nothing is ignored."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest

from modeling_tgdt import TGDTConfig
from trainer import CMCTrainingArguments
from trainer.cmc_trainer import step_schedule
from trainer.recipe import Recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_are_valid(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.description
    TGDTConfig(**recipe.model)
    for arguments in recipe.stage_arguments():
        CMCTrainingArguments(str(tmp_path), **{**arguments, "bf16": False, "use_cpu": True})


def test_the_paper_settings():
    recipe = load_recipe("f30k")
    local, heads = recipe.stage_arguments()
    assert (local["train_stage"], heads["train_stage"]) == ("local", "global")
    assert (
        local["per_device_train_batch_size"] == 30
        and load_recipe("coco").training["per_device_train_batch_size"] == 40
    )
    assert local["learning_rate"] == 1e-5 and local["max_grad_norm"] == 2.0 and local["num_train_epochs"] == 60


def test_overrides_reach_into_the_recipe():
    recipe = load_recipe(
        "flickr8k",
        ["training.learning_rate=1e-4", "model.objective=sigmoid", "training.freeze=[]", "training.save_strategy=no"],
    )
    assert recipe.training["learning_rate"] == 1e-4
    assert recipe.training["save_strategy"] == "no"
    assert recipe.model["objective"] == "sigmoid" and recipe.training["freeze"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("modell: {}", "Unknown key 'modell' in recipe. Did you mean 'model'"),
        ("model: {margn: 0.1}", "Unknown key 'margn' in model. Did you mean 'margin'"),
        ("training: {learnin_rate: 1}", "Did you mean 'learning_rate'"),
        ("stages: [{train_stag: local}]", r"in stages\[0\]. Did you mean 'train_stage'"),
        ("[1, 2]", "must hold a mapping"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_unknown_recipes_and_broken_overrides():
    with pytest.raises(ValueError, match="one of .*flickr8k"):
        load_recipe("flickr9k")
    with pytest.raises(ValueError, match="Expected key=value"):
        load_recipe("flickr8k", ["training.learning_rate"])
    with pytest.raises(ValueError, match="which is not a mapping"):
        load_recipe("flickr8k", ["description.text=x"])


@pytest.mark.parametrize("content", ["training: {hub_token: x}", "stages: [{push_to_hub_token: x}]"])
def test_a_recipe_holds_no_token(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match="hf auth login"):
        load_recipe(path)
    with pytest.raises(ValueError, match="set HF_TOKEN"):
        load_recipe("flickr8k", ["training.push_to_hub=true", "training.hub_token=hf_xxx"])
    with pytest.raises(ValueError, match="found training.hub_token"):
        Recipe(training={"hub_token": "x"}).stage_arguments()


def test_every_recipe_field_is_documented():
    text = inspect.getdoc(Recipe) or ""  # from Python 3.13 on the attribute itself has no indentation any more
    assert all(f"\n    {item.name}: " in text for item in fields(Recipe))


def test_step_schedule_is_the_recorded_one():
    """Rows recorded from the authors' optimizer, scheduler and warm-up run together."""
    recorded = json.loads((Path(__file__).parents[1] / "fixtures/reference/lr_schedule.json").read_text())
    for schedule in recorded.values():
        for row in schedule["rows"]:
            factor = step_schedule(
                row["iteration"],
                steps_per_epoch=schedule["steps_per_epoch"],
                step_epochs=20,
                warmup_steps=schedule["warmup_period"] or 0,
            )
            assert 1e-5 * factor == pytest.approx(row["lr"], rel=1e-9)
