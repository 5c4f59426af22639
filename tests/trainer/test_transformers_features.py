"""What `transformers.Trainer` brings keeps working: search, reports, best model, publishing, launch options."""

import json

import numpy as np
import pytest
import torch
from transformers import Trainer

from tests.trainer.scenes_model import processor, scenes, tiny_model
from tests.trainer.test_cmc_trainer import make_trainer, weights
from trainer import CMCTrainer, CMCTrainingArguments, load_captions
from trainer.scoring.encoding import encode_dataset


def searching_trainer(tmp_path, models, **options):
    fields = {
        "max_steps": 1, "per_device_train_batch_size": 8, "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "learning_rate": 1e-3,
    }  # fmt: skip

    def model_init(trial=None):
        models.append(tiny_model())
        return models[-1]

    return CMCTrainer(
        model_init=model_init, args=CMCTrainingArguments(str(tmp_path), **(fields | options)), train_dataset=scenes(),
        eval_dataset=scenes(8, 1), processing_class=processor(),
    )  # fmt: skip


def test_optuna_searches_for_the_largest_rsum(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    models, rsums = [], []
    trainer = searching_trainer(tmp_path, models, freeze=["vision"], train_stage="local")
    evaluate = trainer.evaluate

    def evaluate_and_note(*args, **kwargs):
        metrics = evaluate(*args, **kwargs)
        rsums.append(metrics["eval_rsum"])
        return metrics

    trainer.evaluate = evaluate_and_note
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        backend="optuna", n_trials=2,
    )  # fmt: skip
    assert len(rsums) == 2 and best.objective == max(rsums)
    fresh = weights(tiny_model())
    for model in models[-2:]:  # the first was made at construction
        trained = weights(model)
        changed = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], trained[name])}
        assert changed == {
            "text_model", "region_embedding", "visual_projection", "text_projection", "text_local_encoder",
            "vision_local_encoder",
        }  # fmt: skip
        assert all(parameter.requires_grad for parameter in model.parameters())  # flags are given back


def test_a_search_follows_the_metric_for_the_best_model(tmp_path, monkeypatch):
    seen = []

    def record(self, hp_space, compute_objective, n_trials, direction, **kwargs):
        seen.append((compute_objective({"eval_rsum": 100.0, "eval_local_t2i_medr": 3.0}), direction))

    monkeypatch.setattr(Trainer, "hyperparameter_search", record)
    searching_trainer(tmp_path, []).hyperparameter_search()
    lowest_rank = {"metric_for_best_model": "local_t2i_medr", "greater_is_better": False}
    searching_trainer(tmp_path, [], **lowest_rank).hyperparameter_search()
    searching_trainer(tmp_path, []).hyperparameter_search(None, lambda metrics: 7.0, 1, "minimize")
    assert seen == [(100.0, "maximize"), (3.0, "minimize"), (7.0, "minimize")]


def test_compute_metrics_and_predictions_are_embeddings(tmp_path):
    photos, calls = scenes(8, 1), []

    def compute_metrics(found):
        images, texts = found.predictions
        ranks = (texts @ images.T).argsort(axis=1)[:, ::-1]
        calls.append(found)
        return {"t2i_top1": 100.0 * float((ranks[:, 0] == found.label_ids).mean())}

    trainer = make_trainer(tmp_path, compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    assert len(calls) == 1 and metrics["eval_t2i_top1"] == pytest.approx(metrics["eval_global_t2i_r1"])
    output = trainer.predict(photos)
    encoded = encode_dataset(trainer.model, trainer.processing_class, load_captions(photos))
    images, texts = output.predictions
    np.testing.assert_allclose(images, encoded.image_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(texts, encoded.text_embeds.numpy(), atol=1e-6)
    assert output.label_ids.tolist() == encoded.text_to_image.tolist()
    assert output.metrics["test_rsum"] == metrics["eval_rsum"] and "test_t2i_top1" in output.metrics
    alone = make_trainer(tmp_path)
    np.testing.assert_allclose(alone.predict(photos).predictions[0], images, atol=1e-6)


def test_the_best_model_is_chosen_by_rsum(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True,
    )  # fmt: skip
    assert trainer.args.metric_for_best_model == "rsum" and trainer.args.greater_is_better
    trainer.train()
    rsums = [entry["eval_rsum"] for entry in trainer.state.log_history if "eval_rsum" in entry]
    assert trainer.state.best_metric == max(rsums)


def test_photos_in_the_order_of_the_data(tmp_path):
    trainer = make_trainer(tmp_path, train_sampling_strategy="sequential")
    assert list(trainer._get_train_sampler()) == list(range(len(trainer.train_dataset)))


def test_reports_go_to_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    make_trainer(tmp_path, report_to=["tensorboard"], max_steps=2).train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert files
    tags = EventAccumulator(str(files[0].parent)).Reload().Tags()["scalars"]
    assert {"train/loss", "train/loss_global", "train/loss_local", "train/loss_intra"} <= set(tags)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_gradient_checkpointing_and_bf16_train(tmp_path):
    trainer = make_trainer(tmp_path, gradient_checkpointing=True, bf16=True, max_steps=2)
    trainer.train()
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_launch_options_are_kept_in_the_arguments(tmp_path):
    args = CMCTrainingArguments(
        str(tmp_path), use_cpu=True, fsdp=True, fsdp_config={"transformer_layer_cls_to_wrap": ["TGDTEncoderLayer"]},
        ddp_find_unused_parameters=True, hard_negatives=3,
    )  # fmt: skip
    again = json.loads(args.to_json_string())
    assert again["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["TGDTEncoderLayer"]
    assert again["ddp_find_unused_parameters"] and again["hard_negatives"] == 3


def test_caching_needs_the_model(tmp_path):
    args = CMCTrainingArguments(str(tmp_path), use_cpu=True, freeze=["vision"], cache_vision_tokens=True)
    with pytest.raises(ValueError, match="instead of model_init"):
        CMCTrainer(model_init=tiny_model, args=args, train_dataset=scenes(), processing_class=processor())
