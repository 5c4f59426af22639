# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Retrieval evaluation under the protocols of the literature, in global, local, mixed and two-stage mode."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import numpy as np
import torch

from hub_cards.metric.image_text_recall.image_text_recall import retrieval_summary
from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.similarity_tgdt import ScoreConfig

from .data.columns import nearest
from .scoring.embeddings import RetrievalEmbeddings
from .scoring.encoding import EncodeOptions, encode_dataset
from .scoring.hubness import corrected_embeddings as corrected
from .scoring.positions import Direction, exhaustive_positions, query_milliseconds, two_stage_positions

logger = logging.getLogger(__name__)

Mode = Literal["global", "local", "exhaustive", "two_stage"]
Protocol = Literal["standard", "coco_1k", "coco_5k", "f30k"]
Candidates = int | Mapping[str, int]

MODES: tuple[Mode, ...] = ("global", "local", "exhaustive", "two_stage")
# Shortlists of the paper: 50 captions for a photo, 100 photos for a caption.
PAPER_CANDIDATES: dict[str, int] = {"i2t": 50, "t2i": 100}
_PROTOCOL_IMAGES = {"coco_1k": 5000, "coco_5k": 5000, "f30k": 1000}
_FOLDS = 5
_CORRECTED = "_hubness"


def evaluate_retrieval(
    model: Any,
    processor: Any,
    dataset: Any,
    protocol: Protocol = "standard",
    modes: Sequence[Mode] = ("global", "local", "two_stage"),
    candidates: Candidates | None = None,
    *,
    score: ScoreConfig | None = None,
    batch_size: int | None = None,
    hubness: HubnessOptions | None = None,
    timed_queries: int = 16,
    options: EncodeOptions | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a model on captioned photos; every photo and caption is encoded once.

    Args:
        model: TGDTModel, or a distributed wrapper of it.
        processor: TGDTProcessor.
        dataset: As [`load_captions`] returns it; any number of captions per photo.
        protocol: `"standard"`, `"coco_5k"` and `"f30k"` rank the whole set; `"coco_1k"` averages five contiguous
            fifths of the photos (of COCO's 5,000 test photos).
        modes: `"global"`: cosine of global embeddings. `"local"`: token similarity of all pairs. `"exhaustive"`: the
            mixed score of all pairs. `"two_stage"`: the mixed score of a shortlist by global score.
        candidates: Shortlist size, one number or by direction. Default: 50 captions and 100 photos, as in the paper.
        score: Weights of the mixed score, mean or sum over words; as the model is configured when omitted.
        batch_size: Photos, or captions, per forward pass; that of `options` when omitted.
        hubness: Also measure every mode but `"local"` with hubs corrected, as a row of its own, such as
            `"two_stage_hubness"`.
        timed_queries: Queries timed alone for `query_ms`; 0 leaves timing out.
        options: Batch size, workers, token precision, policy for broken pictures, progress bars.

    Returns:
        Mode to its metrics: `i2t_r1`, `i2t_r5`, `i2t_r10`, `t2i_r1`, ... and `rsum` (percent), `i2t_medr`,
        `i2t_meanr`, `i2t_mrr`, `i2t_map@R`, `i2t_ndcg`, ..., `query_ms`; for two-stage also `stage1_recall` (percent
        of queries with a match on the shortlist). R@K counts any caption of the photo; a match outside the shortlist
        is a miss; ties count against the system.

    Raises:
        ValueError: When a protocol or mode is unknown, or the data do not fit the protocol.

    Example:
        >>> from trainer.evaluation import evaluate_retrieval
        >>> metrics = evaluate_retrieval(model, processor, dataset)  # doctest: +SKIP
        >>> metrics["two_stage"]["rsum"]  # doctest: +SKIP
    """
    _check(protocol, modes)
    options = options or EncodeOptions()
    options = options if batch_size is None else replace(options, batch_size=batch_size)
    embeddings = encode_dataset(model, processor, dataset, options)
    core = getattr(model, "module", model)
    return retrieval_metrics(
        embeddings.to(core.device),
        score=score or ScoreConfig.of_model(core.config),
        protocol=protocol,
        modes=modes,
        candidates=candidates,
        hubness=hubness,
        timed_queries=timed_queries,
        progress=options.progress,
    )


def retrieval_metrics(
    embeddings: RetrievalEmbeddings,
    *,
    score: ScoreConfig | None = None,
    protocol: Protocol = "standard",
    modes: Sequence[Mode] = ("global", "local", "two_stage"),
    candidates: Candidates | None = None,
    hubness: HubnessOptions | None = None,
    timed_queries: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Evaluate embeddings; the core of [`evaluate_retrieval`], without a model.

    Args:
        embeddings: The gallery, on the device that scores; the same on every process.
        score: Weights of the mixed score.
        protocol: As in [`evaluate_retrieval`].
        modes: As in [`evaluate_retrieval`].
        candidates: As in [`evaluate_retrieval`].
        hubness: As in [`evaluate_retrieval`].
        timed_queries: As in [`evaluate_retrieval`].
        progress: Whether to show progress bars.

    Returns:
        As in [`evaluate_retrieval`].

    Raises:
        ValueError: As in [`evaluate_retrieval`], or when a mode needs tokens that are absent.
    """
    _check(protocol, modes)
    score = score or ScoreConfig()
    limits = shortlist_sizes(candidates)
    galleries = {"": embeddings} if hubness is None else {"": embeddings, _CORRECTED: corrected(embeddings, hubness)}
    parts = {label: _parts(gallery, protocol) for label, gallery in galleries.items()}
    results: dict[str, dict[str, float]] = {}
    for mode, label in product(modes, galleries):
        if mode == "local" and label:  # the correction belongs to the global score
            continue
        folds = [_mode_metrics(part, mode, score, limits, timed_queries, progress) for part in parts[label]]
        results[mode + label] = {name: float(np.mean([fold[name] for fold in folds])) for name in folds[0]}
    return results


def shortlist_sizes(candidates: Candidates | None) -> dict[str, int]:
    """Return the shortlist size by direction.

    Args:
        candidates: One number, a mapping, or None for the paper's sizes.

    Raises:
        ValueError: When a size is below 1 or a direction is unknown.

    Example:
        >>> shortlist_sizes({"t2i": 20})
        {'i2t': 50, 't2i': 20}
    """
    if candidates is None:
        return dict(PAPER_CANDIDATES)
    sizes = dict.fromkeys(PAPER_CANDIDATES, candidates) if isinstance(candidates, int) else dict(candidates)
    unknown = sorted(set(sizes) - set(PAPER_CANDIDATES))
    if unknown or any(not isinstance(size, int) or size < 1 for size in sizes.values()):
        raise ValueError(f"candidates must be a number from 1, or one for 'i2t' and 't2i' each; found {candidates!r}.")
    return {**PAPER_CANDIDATES, **sizes}


def _mode_metrics(
    embeddings: RetrievalEmbeddings,
    mode: Mode,
    score: ScoreConfig,
    limits: Mapping[str, int],
    timed_queries: int,
    progress: bool,
) -> dict[str, float]:
    if mode == "two_stage":
        metrics = _two_stage_metrics(embeddings, score, limits, progress)
    else:
        score = score if mode == "exhaustive" else score.only(mode)
        metrics = retrieval_summary(
            exhaustive_positions(embeddings, score, progress=progress, title=f"Scoring {mode}")
        )
    if timed_queries:
        directions: tuple[Direction, ...] = ("i2t", "t2i")
        for way in directions:
            limit = limits[way] if mode == "two_stage" else None
            metrics[f"{way}_query_ms"] = query_milliseconds(embeddings, way, score, limit, queries=timed_queries)
        metrics["query_ms"] = (metrics["i2t_query_ms"] + metrics["t2i_query_ms"]) / 2
    return metrics


def _two_stage_metrics(
    embeddings: RetrievalEmbeddings, score: ScoreConfig, limits: Mapping[str, int], progress: bool
) -> dict[str, float]:
    i2t, first_i2t = two_stage_positions(embeddings, "i2t", limits["i2t"], score, progress=progress)
    t2i, first_t2i = two_stage_positions(embeddings, "t2i", limits["t2i"], score, progress=progress)
    metrics = retrieval_summary({"i2t": i2t, "t2i": t2i}, limits)
    metrics["i2t_stage1_recall"] = 100.0 * float((first_i2t[:, 0] < limits["i2t"]).mean())
    metrics["t2i_stage1_recall"] = 100.0 * float((first_t2i[:, 0] < limits["t2i"]).mean())
    metrics["stage1_recall"] = (metrics["i2t_stage1_recall"] + metrics["t2i_stage1_recall"]) / 2
    return metrics


def _parts(embeddings: RetrievalEmbeddings, protocol: Protocol) -> list[RetrievalEmbeddings]:
    count = len(embeddings.image_embeds)
    expected = _PROTOCOL_IMAGES.get(protocol, count)
    if count != expected:
        logger.warning("Protocol %s is defined on %d photos, found %d: not comparable.", protocol, expected, count)
    if protocol != "coco_1k":
        return [embeddings]
    if count < _FOLDS:
        raise ValueError(f"Protocol 'coco_1k' averages {_FOLDS} folds, found {count} photos. Use 'standard'.")
    return [embeddings.subset(fold) for fold in torch.arange(count).tensor_split(_FOLDS)]


def _check(protocol: str, modes: Sequence[str]) -> None:
    protocols = ("standard", *_PROTOCOL_IMAGES)
    if protocol not in protocols:
        raise ValueError(f"protocol must be one of {protocols}, found {protocol!r}.{nearest(protocol, protocols)}")
    unknown = [mode for mode in modes if mode not in MODES]
    if isinstance(modes, str) or unknown or not modes:
        hint = nearest(unknown[0], MODES) if unknown and not isinstance(modes, str) else ""
        raise ValueError(f"modes must be a list out of {MODES}, found {modes!r}.{hint}")
