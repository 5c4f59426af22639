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
    with pytest.raises(ValueError, match="^Expected a value of YAML in 'training.freeze=.vision', such as [^\n]*$"):
        load_recipe("flickr8k", ["training.freeze=[vision"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_steps=x", r"training.max_steps to be of type int, found 'x' \(str\)"),
        ("training.max_steps=2.5", r"training.max_steps to be of type int, found 2.5 \(float\)"),
        ("training.max_steps=true", r"training.max_steps to be of type int, found True \(bool\)"),
        ("training.max_steps=", r"training.max_steps to be of type int, found None \(NoneType\)"),
        ("training.learning_rate=fast", r"training.learning_rate to be of type float, found 'fast' \(str\)"),
        ("training.learning_rate=.nan", r"training.learning_rate to be of type float, found nan \(float\)"),
        ("training.bf16=maybe", r"training.bf16 to be of type bool, found 'maybe' \(str\)"),
        ("training.freeze=3", r"training.freeze to be of type list\[str\], found 3 \(int\)"),
        ("training.lr_scheduler_type=3", r"training.lr_scheduler_type to be one of \['linear', .*\], found 3\."),
        ("training.optim=adamw", r"training.optim to be one of \['adamw_torch', .*Did you mean 'adamw_torch'"),
        ("stages=[{eval_strategy: epochs}]", r"eval_strategy to be one of \['no', 'steps', 'epoch'\], found 'epochs'"),
        ("training=3", r"Expected training to be of type dict\[str, Any\], found 3 \(int\)"),
        ("model.projection_dim=x", r"model.projection_dim to be of type int, found 'x' \(str\)"),
        ("model.objective=hing", r"to be of type Literal\['hinge', 'infonce', 'sigmoid'\], found 'hing' \(str\)"),
        ("image_size=big", r"Expected image_size to be of type int \| None, found 'big' \(str\)"),
        ("warm_start=2", r"Expected warm_start to be of type bool, found 2 \(int\)"),
        ("stages=[{max_steps: x}]", r"Expected stages\[0\].max_steps to be of type int, found 'x' \(str\)"),
    ],
)
def test_a_value_of_another_type_is_named(override, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        load_recipe("flickr8k", [override])


def test_values_are_read_as_their_fields_take_them(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("description: 1e5 photos\ntraining: {learning_rate: 1e-4, max_steps: 4e2, freeze: vision}")
    recipe = load_recipe(
        path, ["training.eval_candidates=1e2", "training.weight_decay=0", "stages=[{max_steps: 2.0}]"]
    )
    assert recipe.training == {
        **{"learning_rate": 1e-4, "max_steps": 400, "freeze": ["vision"], "eval_candidates": 100, "weight_decay": 0}
    }
    assert type(recipe.training["max_steps"]) is int and recipe.stages == [{"max_steps": 2}]
    assert load_recipe(path, ["description=1e5"]).description == "1e5"


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
