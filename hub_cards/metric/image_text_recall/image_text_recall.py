# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval metrics: R@K both ways, rsum, MedR, MeanR, MRR, mAP@R, nDCG, as an `evaluate` module.

The file stands alone, so that it loads from the Hub; the tgdt package takes its numbers from the functions below.

Conventions. A query has one or more relevant items (an image: its captions; a caption: its image). The *position* of a
relevant item is the number of items ranked before it, from 0. A rival with an equal score ranks before it: ties count
against the system. `-1` pads rows with fewer relevant items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Retrieval between images and captions, both ways. R@K is the share of queries, in percent, with at least one relevant
item among the first K (any of a photo's captions). rsum is the sum of the six recalls. MedR and MeanR are of the first
relevant item, from 1. MRR, mAP@R and nDCG lie in [0, 1] and use binary relevance. Ties count against the system.
"""
_INPUTS = """
Configuration "scores" (default):
    predictions: rows of the score matrix, one row per image, one column per caption.
    references: for each image, the column numbers of its captions.
Configuration "ranks":
    predictions: for each query, the positions (from 0) of its relevant items.
    references: "i2t" or "t2i" for each query.
Both:
    shortlist: optional size K of the candidate list of a two-stage system (int, or {"i2t": K, "t2i": K}). A relevant
        item at position K or later is a miss: it counts for MedR and MeanR only.
"""
_CITATION = """
@article{tgdt2023, title={Efficient Token-Guided Image-Text Retrieval with Consistent Multimodal Contrastive Training},
  journal={arXiv:2306.08789}, year={2023}}
"""

RECALLS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


def relevant_positions(scores: Any, relevant: Any) -> np.ndarray:
    """Return the positions of relevant items in rankings by score, ties against the system.

    Args:
        scores: (Q, G) scores of Q queries against G items; higher is better.
        relevant: (Q, R) integer columns of the relevant items, padded with -1.

    Returns:
        (Q, R) integer positions, ascending in each row, padded with -1 at the end.

    Raises:
        ValueError: When scores are NaN or shapes do not fit.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 2 or relevant.ndim != 2 or len(scores) != len(relevant):
        raise ValueError(f"Expected scores (Q, G) and relevant (Q, R), found {scores.shape} and {relevant.shape}.")
    if np.isnan(scores).any():
        raise ValueError("Scores contain NaN, which has no rank. Look for a diverged model or a zero embedding.")
    valid = relevant >= 0
    relevant_scores = np.where(valid, np.take_along_axis(scores, np.maximum(relevant, 0), axis=1), -np.inf)
    relevant_scores = -np.sort(-relevant_scores, axis=1)
    rows, slots = np.nonzero(valid)
    ahead = np.zeros(relevant.shape, dtype=np.int64)
    is_rival = np.ones(scores.shape, dtype=bool)
    is_rival[rows, relevant[rows, slots]] = False
    for slot in range(relevant.shape[1]):
        ahead[:, slot] = ((scores >= relevant_scores[:, slot, None]) & is_rival).sum(axis=1) + slot
    return np.where(np.arange(relevant.shape[1]) < valid.sum(axis=1, keepdims=True), ahead, -1)


def direction_metrics(positions: Any, shortlist: int | None = None) -> dict[str, float]:
    """Return the metrics of one direction.

    Args:
        positions: (Q, R) ascending positions of the relevant items, padded with -1.
        shortlist: Candidates that the system looks at; a position of `shortlist` or more is a miss.

    Returns:
        `r1`, `r5`, `r10` in percent; `medr`, `meanr` from 1; `mrr`, `map@R`, `ndcg` in [0, 1].

    Raises:
        ValueError: When a query has no relevant item.
    """
    positions = np.asarray(positions)
    valid = positions >= 0
    if positions.ndim != 2 or not positions.size or not valid[:, 0].all():
        raise ValueError("Every query needs at least one relevant item, and there must be one query or more.")
    is_hit = valid if shortlist is None else valid & (positions < shortlist)
    first, hit = positions[:, 0], is_hit[:, 0]
    count = valid.sum(axis=1)
    order = np.arange(1, positions.shape[1] + 1)
    precision = np.where(is_hit & (positions < count[:, None]), order / (np.maximum(positions, 0) + 1), 0.0)
    gains = np.where(is_hit, 1 / np.log2(np.maximum(positions, 0) + 2), 0.0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(order + 1))[count - 1]
    metrics = {f"r{k}": 100.0 * float((hit & (first < k)).mean()) for k in RECALLS}
    metrics["medr"] = float(np.floor(np.median(first)) + 1)
    metrics["meanr"] = float(first.mean() + 1)
    metrics["mrr"] = float(np.where(hit, 1 / (first + 1), 0.0).mean())
    metrics["map@R"] = float((precision.sum(axis=1) / count).mean())
    metrics["ndcg"] = float((gains / ideal).mean())
    return metrics


def retrieval_summary(positions: Mapping[str, Any], shortlist: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the metrics of one or both directions under their usual names.

    Args:
        positions: Direction (`"i2t"`, `"t2i"`) to its (Q, R) positions, see [`direction_metrics`].
        shortlist: None, or direction to the size of its candidate list.

    Returns:
        `i2t_r1`, ..., `t2i_ndcg`; with both directions also `rsum`, and `mrr`, `map@R`, `ndcg` averaged over the two.
    """
    summary = {}
    for direction in DIRECTIONS:
        if direction in positions:
            metrics = direction_metrics(positions[direction], (shortlist or {}).get(direction))
            summary.update({f"{direction}_{name}": value for name, value in metrics.items()})
    if all(direction in positions for direction in DIRECTIONS):
        summary["rsum"] = sum(summary[f"{direction}_r{k}"] for direction in DIRECTIONS for k in RECALLS)
        for name in ("mrr", "map@R", "ndcg"):
            summary[name] = (summary[f"i2t_{name}"] + summary[f"t2i_{name}"]) / 2
    return summary


def pad_rows(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return ragged rows of integers as one array padded with -1.

    Args:
        rows: Lists of integers.
    """
    width = max((len(row) for row in rows), default=0)
    padded = np.full((len(rows), max(width, 1)), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class ImageTextRecall(evaluate.Metric):
    """Image-text retrieval metrics from a score matrix or from ranks."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name in (None, "default", "scores"):
            features = {
                "predictions": datasets.Sequence(datasets.Value("float32")),
                "references": datasets.Sequence(datasets.Value("int64")),
            }
        elif self.config_name == "ranks":
            features = {
                "predictions": datasets.Sequence(datasets.Value("int64")),
                "references": datasets.Value("string"),
            }
        else:
            raise ValueError(f"The configurations are 'scores' and 'ranks', found {self.config_name!r}.")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2306.08789"],
        )

    def _compute(
        self, predictions: Any, references: Any, shortlist: int | Mapping[str, int] | None = None
    ) -> dict[str, float]:
        if isinstance(shortlist, int):
            shortlist = dict.fromkeys(DIRECTIONS, shortlist)
        if self.config_name == "ranks":
            return retrieval_summary(_by_direction(predictions, references), shortlist)
        scores = np.asarray(predictions, dtype=np.float32)
        return retrieval_summary(_both_ways(scores, [list(columns) for columns in references]), shortlist)


def _by_direction(predictions: Sequence[Sequence[int]], references: Sequence[str]) -> dict[str, np.ndarray]:
    unknown = sorted(set(references) - set(DIRECTIONS))
    if unknown:
        raise ValueError(f"References of the configuration 'ranks' are 'i2t' or 't2i', found {unknown}.")
    rows: dict[str, list[list[int]]] = {}
    for positions, direction in zip(predictions, references, strict=True):
        rows.setdefault(direction, []).append(sorted(positions))
    return {direction: pad_rows(lists) for direction, lists in rows.items()}


def _both_ways(scores: np.ndarray, captions_of_image: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    if scores.ndim != 2:
        raise ValueError("Every row of scores needs one column per caption: rows of unequal length were given.")
    images_of_caption: list[list[int]] = [[] for _ in range(scores.shape[1])]
    for image, columns in enumerate(captions_of_image):
        for column in columns:
            if not 0 <= column < scores.shape[1]:
                raise ValueError(f"Caption {column} of image {image} is not a column: there are {scores.shape[1]}.")
            images_of_caption[column].append(image)
    if not all(images_of_caption):
        raise ValueError(f"Caption {images_of_caption.index([])} belongs to no image. Drop its column.")
    return {
        "i2t": relevant_positions(scores, pad_rows(captions_of_image)),
        "t2i": relevant_positions(scores.T, pad_rows(images_of_caption)),
    }
