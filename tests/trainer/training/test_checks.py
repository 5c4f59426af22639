"""What a retriever's trainer cannot honour is refused at construction, by the name of the argument."""

import datasets
import pytest

from tests.trainer.scenes_model import processor, scenes, tiny_model
from trainer import CMCTrainer, CMCTrainingArguments, TGDTDataCollator
from trainer.training.checks import metric_name


@pytest.mark.parametrize(
    "options",
    [
        {"remove_unused_columns": True},
        {"batch_eval_metrics": True},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"hard_negatives": 2, "train_sampling_strategy": "sequential"},
        {"metric_for_best_model": "eval_loss"},
        {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_arguments_that_would_be_ignored(options, tmp_path):
    with pytest.raises(ValueError, match=next(iter(options))):
        CMCTrainingArguments(str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("train_dataset", datasets.DatasetDict(train=scenes(2), test=scenes(2)), TypeError),
        ("train_dataset", {"train": scenes(2)}, TypeError),
        ("processing_class", processor().tokenizer, TypeError),
        ("processing_class", processor().image_processor, TypeError),
        ("preprocess_logits_for_metrics", lambda logits, labels: logits, ValueError),
    ],
)
def test_inputs_of_another_kind(name, value, error, tmp_path):
    args = CMCTrainingArguments(str(tmp_path), use_cpu=True)
    given = {"model": tiny_model(), "args": args, "train_dataset": scenes(2), "processing_class": processor()}
    with pytest.raises(error, match=name):
        CMCTrainer(**(given | {name: value}))
    with pytest.raises(error, match=name):
        CMCTrainer(**(given | {"data_collator": TGDTDataCollator(processor()), name: value}))


def test_evaluation_data_by_name_is_taken(tmp_path):
    args = CMCTrainingArguments(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    splits = datasets.DatasetDict(one=scenes(4), other=scenes(4, 1))
    metrics = CMCTrainer(tiny_model(), args, eval_dataset=splits, processing_class=processor()).evaluate()
    assert {"eval_one_rsum", "eval_other_rsum"} <= metrics.keys()


def test_the_name_of_the_metric(tmp_path):
    names = (None, "rsum", "eval_rsum", "global_rsum")
    found = [
        metric_name(CMCTrainingArguments(str(tmp_path), use_cpu=True, metric_for_best_model=name)) for name in names
    ]
    assert found == ["eval_rsum", "eval_rsum", "eval_rsum", "eval_global_rsum"]
