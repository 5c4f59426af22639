"""What `transformers.Trainer` brings keeps working: search, reports, best model, publishing, launch options."""

import json

import pytest
import torch

from tests.trainer.scenes_model import processor, scenes, tiny_model
from tests.trainer.test_cmc_trainer import make_trainer, weights
from trainer import CMCTrainer, CMCTrainingArguments


def test_hyper_parameter_search_freezes_every_new_model(tmp_path, monkeypatch):
    """A backend of four lines: Optuna, Ray and W&B come in by the same door."""
    import transformers.trainer as module
    from transformers.trainer_utils import BestRun, HPSearchBackend

    seen = []

    class GridBackend:
        def __init__(self):
            self.name = "optuna"

        def default_hp_space(self, trial):
            return {}

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            runs = []
            for rate in (1e-4, 1e-2):
                trainer.args.learning_rate = rate
                trainer.train(trial=None)
                seen.append((trainer.model.vision_model.training, weights(trainer.model)))
                runs.append(BestRun(str(rate), trainer.evaluate()["eval_rsum"], {"learning_rate": rate}))
            return max(runs, key=lambda run: run.objective)

    monkeypatch.setitem(module.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, GridBackend)
    args = CMCTrainingArguments(
        str(tmp_path), freeze=["vision"], max_steps=1, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", train_stage="local",
    )  # fmt: skip
    trainer = CMCTrainer(
        model_init=lambda trial=None: tiny_model(), args=args, train_dataset=scenes(), eval_dataset=scenes(8, 1),
        processing_class=processor(),
    )  # fmt: skip
    best = trainer.hyperparameter_search(direction="maximize", backend="optuna", n_trials=2)
    assert best.run_id in ("0.0001", "0.01") and len(seen) == 2
    fresh = weights(tiny_model())
    for vision_trains, trained in seen:
        assert not vision_trains
        changed = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], trained[name])}
        assert changed == {
            "text_model", "region_embedding", "visual_projection", "text_projection", "text_local_encoder",
            "vision_local_encoder",
        }  # fmt: skip


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
