# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Measured results as the Hub reads them: `.eval_results/*.yaml` and the model-index of a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from .privacy import public_command
from .sources import DataSource

FOLDER = ".eval_results"
METRICS = {
    "i2t_r1": "image-to-text R@1",
    "i2t_r5": "image-to-text R@5",
    "i2t_r10": "image-to-text R@10",
    "t2i_r1": "text-to-image R@1",
    "t2i_r5": "text-to-image R@5",
    "t2i_r10": "text-to-image R@10",
    "rsum": "rsum",
}
PROTOCOLS = {
    "standard": "every query is ranked against the whole evaluation set",
    "coco_5k": "every query is ranked against COCO's 5,000 test photos or their captions",
    "coco_1k": "mean over five folds of 1,000 of COCO's test photos",
    "f30k": "every query is ranked against Flickr30K's 1,000 test photos or their captions",
}
MODES = {
    "global": "dot product of the global embeddings, stage one alone",
    "local": "token similarity with the whole gallery",
    "exhaustive": "mixed score with the whole gallery",
    "two_stage": "the global score picks a shortlist (50 captions, 100 photos unless the command says otherwise), "
    "the mixed score ranks it; a match outside the shortlist is a miss",
    "global_hubness": "the global score less the item's hubness, by reference queries from the training photos",
    "exhaustive_hubness": "the mixed score with that global score",
    "two_stage_hubness": "both stages with that global score, as a gallery of this model ranks",
}


def measured(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Return the results by retrieval mode; none without the command that made them.

    Args:
        record: Content of `run.json`.
    """
    return (record.get("results") or {}) if record.get("command") else {}


def eval_results(record: Mapping[str, Any], source: DataSource | None) -> list[EvalResult]:
    """Return the entries of a card's model-index.

    Args:
        record: Content of `run.json`.
        source: Data that was measured on.
    """
    return [
        EvalResult(
            task_type="image-text-retrieval",
            task_name="Image-text retrieval",
            dataset_type="captioned-photos" if source is None else source.hub_id or source.key,
            dataset_name="captioned photos" if source is None else source.name,
            dataset_config=f"protocol {protocol}",
            dataset_split=evaluated_split(record),
            metric_type=metric,
            metric_value=value,
            metric_name=f"{METRICS[metric]} ({mode})",
            metric_config=mode,
        )
        for protocol, mode, metric, value in _numbers(record)
    ]


def eval_result_entries(record: Mapping[str, Any], source: DataSource | None) -> list[EvalResultEntry]:
    """Return the entries of `.eval_results`; an empty list for data that is not on the Hub.

    Args:
        record: Content of `run.json`.
        source: Data that was measured on.
    """
    if source is None or source.hub_id is None:
        return []
    command, split = public_command(record.get("command") or ""), evaluated_split(record)
    return [
        EvalResultEntry(
            dataset_id=source.hub_id,
            task_id=f"{protocol}_{mode}_{metric}",
            value=value,
            notes=f"{METRICS[metric]}, mode {mode}, protocol {protocol}, split {split}; made by: {command}",
        )
        for protocol, mode, metric, value in _numbers(record)
    ]


def write_eval_results(folder: Path, record: Mapping[str, Any], source: DataSource | None) -> Path | None:
    """Write `.eval_results/<data>.yaml`; None when there is nothing to write.

    Args:
        folder: Model directory.
        record: Content of `run.json`.
        source: Data that was measured on.
    """
    entries = eval_result_entries(record, source)
    if not entries or source is None:
        return None
    path = folder / FOLDER / f"{source.key}.yaml"
    path.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path


def evaluated_split(record: Mapping[str, Any]) -> str:
    """Return which photos the results are of: what the run recorded, otherwise the split of its recipe.

    Args:
        record: Content of `run.json`.
    """
    return str(record.get("evaluated") or (record.get("recipe") or {}).get("eval_split") or "validation")


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    protocol = record.get("protocol") or "standard"
    for mode, metrics in measured(record).items():
        for metric in METRICS:
            if metric in metrics:
                yield protocol, mode, metric, round(float(metrics[metric]), 2)


__all__ = [
    "MODES",
    "PROTOCOLS",
    "eval_result_entries",
    "eval_results",
    "evaluated_split",
    "measured",
    "write_eval_results",
]
