"""CMCTrainer: learning, stages, large batches, resume, and what it says when something is wrong."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from modeling_tgdt import TGDTModel
from tests.trainer.scenes_model import processor, scenes, scenes_with_negatives, tiny_model
from trainer import CaptionDataset, CMCTrainer, CMCTrainingArguments, TGDTDataCollator
from trainer.data.negatives import TEXTS
from trainer.scoring.encoding import EncodeOptions
from trainer.training.stages import stage_loss


def make_trainer(tmp_path, model=None, dataset=None, compute_metrics=None, **options):
    fields = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 7,
    }
    args = CMCTrainingArguments(str(tmp_path), **(fields | options))
    trainer = CMCTrainer(
        model=tiny_model() if model is None else model,
        args=args,
        train_dataset=scenes() if dataset is None else dataset,
        eval_dataset=scenes(8, 1),
        processing_class=processor(),
        compute_metrics=compute_metrics,
    )
    trainer.current_gradient_accumulation_steps = 1  # set by train(), for tests that take single steps
    return trainer


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(before, model):
    return {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}


def test_the_loss_falls(tmp_path):
    photos = scenes().select(range(16))
    photos = photos.map(lambda row: {"captions": row["captions"][:1]})
    model = tiny_model(hidden_dropout_prob=0.0, hardest_negatives=False)
    trainer = make_trainer(tmp_path, model, photos, max_steps=60, per_device_train_batch_size=16, learning_rate=3e-3)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    terms = trainer.state.log_history[0]
    assert terms["loss"] == pytest.approx(terms["loss_global"] + terms["loss_local"] + terms["loss_intra"], rel=1e-5)


def test_evaluation_metrics_and_best_model(tmp_path):
    trainer = make_trainer(
        tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_rsum"] == metrics["eval_two_stage_rsum"]
    assert {f"eval_{mode}_t2i_r1" for mode in ("global", "local", "two_stage")} <= metrics.keys()
    assert trainer.state.best_metric == max(
        entry["eval_rsum"] for entry in trainer.state.log_history if "eval_rsum" in entry
    )


KEEP_BEST = {
    "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1,
    "load_best_model_at_end": True,
}  # fmt: skip


def test_training_never_ends_below_its_start(tmp_path, caplog):
    """A rate that destroys the model: the weights of the start come back, and both figures are told."""
    trained = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    make_trainer(tmp_path / "first", trained, scenes(8, 1), max_steps=40, learning_rate=2e-3).train()
    before = weights(trained)
    trainer = make_trainer(tmp_path, trained, max_steps=2, learning_rate=1.0, max_grad_norm=0.0, **KEEP_BEST)
    result = trainer.train()
    assert not changed(before, trained)
    history = [entry for entry in trainer.state.log_history if "eval_rsum" in entry]
    assert [entry["step"] for entry in history] == [0, 1, 2]
    assert result.metrics["start_rsum"] == result.metrics["end_rsum"] == history[0]["eval_rsum"]
    assert trainer.evaluate()["eval_rsum"] == history[0]["eval_rsum"] > history[-1]["eval_rsum"]
    assert "No checkpoint beats the start" in caplog.text


def test_the_start_is_measured_once(tmp_path, caplog):
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
    whole = trainer.train().metrics
    assert whole["end_rsum"] == trainer.state.log_history[-2]["eval_rsum"]
    resumed = make_trainer(tmp_path, eval_strategy="steps", eval_steps=2, max_steps=6)
    metrics = resumed.train(resume_from_checkpoint=True).metrics
    assert metrics["start_rsum"] == whole["start_rsum"]
    assert [entry["step"] for entry in resumed.state.log_history if "eval_rsum" in entry] == [0, 2, 4, 6]


def test_a_run_that_has_only_its_start_goes_on_from_there(tmp_path):
    make_trainer(tmp_path, max_steps=1, **KEEP_BEST).train()
    shutil.rmtree(tmp_path / "checkpoint-1", ignore_errors=True)
    trainer = make_trainer(tmp_path, max_steps=2, **KEEP_BEST)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-0"))
    assert [entry["step"] for entry in trainer.state.log_history if "eval_rsum" in entry] == [0, 1, 2]


def test_no_evaluation_without_an_evaluation_strategy(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    assert "start_rsum" not in trainer.train().metrics
    assert not any("eval_rsum" in entry for entry in trainer.state.log_history)


def test_a_batch_of_one_pair_is_warned_of(tmp_path, caplog):
    make_trainer(tmp_path, per_device_train_batch_size=1)
    assert "loss is 0" in caplog.text


def test_a_run_of_any_length_logs_twenty_times(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=20, logging_steps=CMCTrainingArguments("x").logging_steps)
    trainer.train()
    assert sum("loss" in entry for entry in trainer.state.log_history) == 20


@pytest.mark.parametrize(
    ("stage", "freeze", "trained"),
    [
        ("global", [], {"text_global_encoder", "vision_global_encoder"}),
        ("local", ["vision", "text"], {"region_embedding", "visual_projection", "text_projection",
                                       "text_local_encoder", "vision_local_encoder"}),
    ],
)  # fmt: skip
def test_stages_train_their_part_only(tmp_path, stage, freeze, trained):
    model = tiny_model()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = weights(model)
    trainer = make_trainer(tmp_path, model, train_stage=stage, freeze=freeze, max_steps=2)
    trainer.train()
    assert {name.split(".")[0] for name in changed(before, model)} == trained
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert (
        "loss_local" in trainer.state.log_history[0]
        if stage == "local"
        else "loss_global" in (trainer.state.log_history[0])
    )


def test_two_stages_one_after_the_other(tmp_path):
    model = tiny_model()
    make_trainer(tmp_path, model, train_stage="local", max_steps=2).train()
    before = weights(model)
    make_trainer(tmp_path, model, train_stage="global", max_steps=2).train()
    assert {name.split(".")[0] for name in changed(before, model)} == {
        "text_global_encoder",
        "vision_global_encoder",
    }


def test_frozen_parts_run_without_dropout(tmp_path):
    trainer = make_trainer(tmp_path, freeze=["vision"], max_steps=1)
    modes = {}
    original = trainer._embed
    trainer._embed = lambda model, inputs: (
        modes.update(vision=model.vision_model.training, text=model.text_model.training),
        original(model, inputs),
    )[1]
    trainer.train()
    assert modes == {"vision": False, "text": True}


def test_learning_rate_per_tower(tmp_path):
    options = {"vision_learning_rate": 1e-5, "text_learning_rate": 2e-5, "projection_learning_rate": 3e-5}
    trainer = make_trainer(tmp_path, weight_decay=0.1, **options)
    optimizer = trainer.create_optimizer()
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            towers = {"vision_model": 1e-5, "text_model": 2e-5, "visual_projection": 3e-5, "text_projection": 3e-5}
            assert rates[id(parameter)][0] == towers.get(name.split(".")[0], 1e-3), name
            assert parameter.ndim > 1 or rates[id(parameter)][1] == 0.0
        else:
            assert id(parameter) not in rates


def test_a_tower_with_learning_rate_zero_stays(tmp_path):
    model = tiny_model()
    before = weights(model)
    make_trainer(tmp_path, model, vision_learning_rate=0.0, max_steps=2).train()
    towers = {name.split(".")[0] for name in changed(before, model)}
    assert "vision_model" not in towers and {"text_model", "visual_projection"} <= towers


def test_tower_rates_leave_weight_decay_as_it_is(tmp_path):
    decays = []
    for rate in (None, 1e-3):  # equal rates: only the grouping differs
        trainer = make_trainer(tmp_path, vision_learning_rate=rate, weight_decay=0.1)
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        groups = trainer.create_optimizer().param_groups
        decays.append(
            {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
        )
    assert decays[0] == decays[1]


@pytest.mark.parametrize(
    "length", [{"max_steps": 30}, {"num_train_epochs": 2, "max_steps": -1}], ids=["max_steps", "epochs"]
)
def test_the_authors_schedule_falls_with_the_epochs_of_the_data(tmp_path, length):
    options = {"captions_per_image": "one", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer = make_trainer(tmp_path, lr_step_epochs=1, learning_rate=1.0, max_grad_norm=1e-9, **options, **length)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    steps = 3  # 24 photos in batches of 4, two to a step
    assert rates == pytest.approx([0.1 ** (step // steps) for step in range(len(rates))])


@pytest.mark.parametrize("objective", ["hinge", "infonce"])
@pytest.mark.parametrize(
    ("mini_batch_size", "photos"), [(2, scenes), (3, scenes_with_negatives)], ids=["pairs", "and hard negatives"]
)
def test_mini_batches_give_the_gradient_of_the_whole_batch(tmp_path, objective, mini_batch_size, photos):
    gradients = []
    for size in (None, mini_batch_size):
        overrides = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "objective": objective}
        model = tiny_model(**overrides, distill_loss_weight=0.5, learnable_temperature=objective != "hinge")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = make_trainer(tmp_path, model.double(), photos(), mini_batch_size=size)
        batch = next(iter(trainer.get_train_dataloader()))
        batch["pixel_values"] = batch["pixel_values"].double()
        assert (batch.get("num_pairs") == 8) == (photos is scenes_with_negatives)
        loss = trainer.training_step(model, batch)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"loss": loss})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert ("logit_scales.log_scale" in gradients[0]) == (objective != "hinge")


def test_a_trained_batch_norm_sees_the_whole_batch(tmp_path):
    """Parts of a batch have another mean: a batch norm that trains gets all of it; a frozen one keeps its own."""
    torch.manual_seed(0)
    norm = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    trainer = make_trainer(tmp_path, tiny_model(), mini_batch_size=2)
    assert trainer._mini_batch_size(norm.train()) is None
    assert trainer._mini_batch_size(norm.eval()) == trainer._mini_batch_size(trainer.model.train()) == 2


def test_mini_batches_repeat_their_dropout(tmp_path):
    """With dropout on, the second embedding of a part must equal the first: the surrogate is exact then."""
    model = tiny_model(hidden_dropout_prob=0.5)
    trainer = make_trainer(tmp_path, model, mini_batch_size=2)
    embedded = []
    original = trainer._embed
    trainer._embed = lambda *inputs: embedded.append(original(*inputs)) or embedded[-1]
    trainer.training_step(model, next(iter(trainer.get_train_dataloader())))
    first, second = embedded[: len(embedded) // 2], embedded[len(embedded) // 2 :]
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.text_embeds, b.text_embeds, rtol=0, atol=0)
    assert not torch.equal(first[0].text_embeds, embedded[1].text_embeds)


@pytest.mark.parametrize("captions_per_image", ["all", "one"])
def test_resume_equals_the_uninterrupted_run(tmp_path, captions_per_image):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "captions_per_image": captions_per_image}
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(tmp_path / "whole", tiny_model(seed=99), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_resuming_skips_a_checkpoint_that_was_cut_off(tmp_path):
    make_trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": ')
    (tmp_path / "checkpoint-9").mkdir()
    resumed = make_trainer(tmp_path, tiny_model(seed=99), max_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="No whole checkpoint"):
        make_trainer(tmp_path / "empty").train(resume_from_checkpoint=True)


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
    model = tiny_model()
    trainer = make_trainer(tmp_path, model, max_steps=5)
    original = trainer._embed

    def poisoned(wrapped, inputs):
        pairs = original(wrapped, inputs)
        if trainer.state.global_step == 2:
            pairs.image_embeds = pairs.image_embeds * float("nan")
        return pairs

    trainer._embed = poisoned
    with pytest.raises(FloatingPointError, match="at step 2"):
        trainer.train()


def test_collapse_is_noticed(tmp_path, caplog):
    trainer = make_trainer(tmp_path, max_steps=1, collapse_threshold=-1.0)
    with caplog.at_level("WARNING"):
        trainer._watch_collapse(torch.ones(3, 4) / 2)
    assert any("Collapse at step 0" in record.message for record in caplog.records)
    assert float(trainer._components["image_cosine"][0]) == pytest.approx(1.0)


def test_margin_warm_up(tmp_path):
    trainer = make_trainer(tmp_path, margin_warmup_steps=4)
    margins = []
    for step in range(6):
        trainer.state.global_step = step
        loss = stage_loss(trainer.model, "joint", trainer._margin_share())
        margins.append((loss.margin, loss.local_margin))
    expected = [(0.2 * share, 0.06 * share) for share in (0.25, 0.5, 0.75, 1, 1, 1)]
    assert margins == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize("stage", ["local", "global"])
def test_learned_temperatures_train_in_every_stage_without_weight_decay(tmp_path, stage):
    model = tiny_model(objective="sigmoid", learnable_temperature=True)
    before = weights(model)
    options = {"train_stage": stage, "weight_decay": 0.1, "learning_rate": 0.01, "text_learning_rate": 1e-5}
    trainer = make_trainer(tmp_path, model, **options)
    trainer.train()
    moved = {
        name: model.get_parameter(f"logit_scales.{name}") - before[f"logit_scales.{name}"]
        for name in ("log_scale", "bias")
    }
    own, other = (1, 0) if stage == "local" else (0, 1)
    assert all(change[own] != 0 and change[other] == 0 for change in moved.values())  # no decay of what has no loss
    model.save_pretrained(tmp_path)
    again = TGDTModel.from_pretrained(tmp_path)
    assert torch.equal(again.logit_scales.log_scale, model.logit_scales.log_scale)


def test_no_batch_holds_two_captions_of_a_photo(tmp_path):
    trainer = make_trainer(tmp_path)
    for epoch in range(2):
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        for batch in loader:
            assert len(set(batch["image_ids"].tolist())) == len(batch["image_ids"])


def test_accumulation_says_that_it_adds_no_negatives(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        make_trainer(tmp_path, gradient_accumulation_steps=2)
    assert any("does not add negatives" in record.message for record in caplog.records)


def test_streams_train_too(tmp_path):
    trainer = make_trainer(tmp_path, dataset=scenes().to_iterable_dataset(), max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2


def test_bad_pictures_are_skipped_and_listed(tmp_path):
    rows = scenes().cast_column("image", datasets.Image(decode=False)).to_list()
    rows[3]["image"] = {"bytes": b"not a picture", "path": None}
    broken = datasets.Dataset.from_list(rows, features=scenes().features)
    with pytest.raises(ValueError, match="cannot|identify|read|picture"):
        make_trainer(tmp_path, dataset=broken, max_steps=30, per_device_train_batch_size=24).train()
    trainer = make_trainer(tmp_path, dataset=broken, on_error="skip", max_steps=2)
    trainer.train()
    assert [name for name, _ in trainer.skip_report] == [str(rows[3]["image_id"])]


@pytest.mark.parametrize("streaming", [False, True])
def test_hard_negatives_of_the_data_reach_the_loss(tmp_path, streaming):
    """A caption that every photo names as a negative is pushed away from all of them."""
    rows = scenes().add_column("negative_captions", [["a large grey moon"]] * 24, feature=TEXTS)
    rows = rows.to_iterable_dataset() if streaming else rows
    model = tiny_model(objective="infonce", local_loss_weight=0, hidden_dropout_prob=0.0, intra_loss_weight=0)
    options = {"max_steps": 15, "learning_rate": 1e-3, "look_alikes_per_batch": False}  # so that both see like batches
    trainer = make_trainer(tmp_path, model, rows, **options)

    def nearness():
        photos = TGDTDataCollator(processor()).images([{"image": image} for image in scenes()["image"][:8]])
        words = processor()(text=["a large grey moon"], return_tensors="pt").to(model.device)
        with torch.no_grad():
            return float(
                (
                    model.get_image_features(**photos).pooler_output @ model.get_text_features(**words).pooler_output.T
                ).mean()
            )

    before = nearness()
    trainer.train()
    assert nearness() < before - 0.1


def test_plain_trainer_trains_it_too(tmp_path):
    args = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=8, report_to=[], use_cpu=True, logging_steps=1,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    collator = TGDTDataCollator(processor())
    trainer = Trainer(
        model=tiny_model(), args=args, train_dataset=CaptionDataset(scenes_with_negatives()), data_collator=collator
    )
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_a_plain_trainer_would_drop_16_tensors_of_a_vit_layer_as_the_docs_say(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    lost = set(model.state_dict()) - set(load_file(tmp_path / "model.safetensors"))
    assert len(lost) == 16 * model.config.vision_config.num_hidden_layers


def test_frozen_tokens_are_cached_once_and_give_the_same_training(tmp_path):
    results = []
    photos = scenes_with_negatives()
    with pytest.raises(ValueError, match="negative_images are not cached"):
        make_trainer(tmp_path, dataset=photos, freeze=["vision"], cache_vision_tokens=True)
    photos = photos.remove_columns(["negative_images", "negative_image_ids"])
    for cached in (False, True):
        model = tiny_model(hidden_dropout_prob=0.0)
        trainer = make_trainer(
            tmp_path, model, photos, freeze=["vision"], cache_vision_tokens=cached, max_steps=2, learning_rate=1e-4
        )
        assert ("region_features" in trainer.train_dataset.dataset.column_names) == cached
        trainer.train()
        results.append(trainer.state.log_history[0]["loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-3)  # stored in float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_stage": "heads"}, "train_stage must be among"),
        ({"freeze": ["audio"]}, "freeze must be among"),
        ({"mini_batch_size": 0}, "mini_batch_size must be at least 1"),
        ({"cache_vision_tokens": True}, "Add 'vision' to freeze"),
        ({"eval_modes": ["fast"]}, "eval_modes must be among"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CMCTrainingArguments(str(tmp_path), **options)


def test_memory_is_pinned_for_an_accelerator_only(tmp_path):
    arguments = CMCTrainingArguments(str(tmp_path), use_cpu=True)
    assert arguments.dataloader_pin_memory == torch.accelerator.is_available()


def test_encoding_follows_the_arguments(tmp_path):
    trainer = make_trainer(
        tmp_path, per_device_eval_batch_size=5, dataloader_num_workers=2, on_error="skip", disable_tqdm=True
    )
    options = trainer.encode_options()
    assert options == EncodeOptions(5, 2, on_error="skip", report=trainer.skip_report, progress=False)
    assert EncodeOptions.of_arguments(trainer.args) == EncodeOptions(5, 2, progress=False)


def test_wrong_set_ups_are_refused(tmp_path):
    with pytest.raises(TypeError, match="must be CMCTrainingArguments"):
        CMCTrainer(model=tiny_model(), args=TrainingArguments(str(tmp_path)), processing_class=processor())
    with pytest.raises(ValueError, match="needs processing_class"):
        CMCTrainer(model=tiny_model(), args=CMCTrainingArguments(str(tmp_path)))
    args = CMCTrainingArguments(str(tmp_path), use_cpu=True)
    assert json.loads(args.to_json_string())["train_stage"] == "joint"


def test_nothing_to_train_is_refused(tmp_path):
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing trains in stage 'joint'"):
        make_trainer(tmp_path, model).train()
