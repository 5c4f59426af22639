# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Fit how much the token similarity counts beside the global one, on photos that the model was not trained on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hub_cards.metric.image_text_recall.image_text_recall import relevant_positions, retrieval_summary
from modeling_tgdt.similarity_tgdt import ScoreConfig

from .embeddings import RetrievalEmbeddings
from .encoding import EncodeOptions, encode_dataset
from .positions import relevant_rows, similarity_matrix

logger = logging.getLogger(__name__)

_SCORED_PHOTOS = 500
_CLEAR = 2.0  # standard errors


@dataclass(frozen=True)
class ScoreWeights:
    """Weights of the mixed score, with what they are worth on the photos that they were fitted on.

    Attributes:
        global_score_weight: Weight of the global similarity, 1 unless the tokens alone rank best.
        local_score_weight: Weight of the token similarity; 0 where tokens do not help.
        rsum: Sum of recalls with these weights, mixed score of all pairs.
        rsum_before: The same with the weights that the model had.
    """

    global_score_weight: float
    local_score_weight: float
    rsum: float
    rsum_before: float


def calibrate_scores(
    model: Any, processor: Any, photos: Any, *, apply: bool = False, options: EncodeOptions | None = None
) -> ScoreWeights:
    """Fit `global_score_weight` and `local_score_weight` on captioned photos.

    A logistic model asks of each caption which photo is its own, and of each photo which caption: the logits are a
    weighted sum of both similarities, and the ratio of the weights that explain the pairs best is the mix. So the
    scale and the temperature of the token similarity do not matter. Tokens must show that they help: neither the
    weights of the model nor the fitted ones are taken unless they are clearly better than the global similarity alone,
    by more than two standard errors of the likelihood over the photos, at no lower rsum.

    Args:
        model: TGDTModel, trained or not.
        processor: TGDTProcessor.
        photos: Captioned photos that the model was not trained on and that no figure is reported of, as
            [`load_captions`] returns them; 50 do, at most 500 are scored.
        apply: Whether to write the weights into `model.config`.
        options: Batch size, workers, policy for broken pictures, progress bars.

    Returns:
        The weights, to be given to `TGDTConfig` or, as [`ScoreConfig`], to [`evaluate_retrieval`].

    Raises:
        ValueError: When fewer than two photos have captions.

    Example:
        >>> calibrate_scores(model, processor, photos["validation"], apply=True)  # doctest: +SKIP
        ScoreWeights(global_score_weight=1.0, local_score_weight=0.42, rsum=351.0, rsum_before=343.7)
    """
    embeddings = encode_dataset(model, processor, photos, options)
    weights = fit_score_weights(embeddings, ScoreConfig.of_model(model.config))
    if apply:
        model.config.global_score_weight = weights.global_score_weight
        model.config.local_score_weight = weights.local_score_weight
    logger.info("%d photos for the calibration: %s", len(embeddings.image_embeds), weights)
    return weights


def fit_score_weights(embeddings: RetrievalEmbeddings, score: ScoreConfig) -> ScoreWeights:
    """Fit the weights on embeddings; the core of [`calibrate_scores`], without a model.

    Args:
        embeddings: Photos and captions with tokens.
        score: The weights to improve on, reduction and scale.

    Returns:
        As in [`calibrate_scores`].

    Raises:
        ValueError: As in [`calibrate_scores`].
    """
    count = len(embeddings.image_embeds)
    if count > _SCORED_PHOTOS:
        embeddings = embeddings.subset(torch.linspace(0, count - 1, _SCORED_PHOTOS).long())
    owners = embeddings.text_to_image
    if len(owners.unique()) < 2:
        raise ValueError("A calibration compares photos: expected at least 2 with captions, found 1.")
    parts = torch.stack([similarity_matrix(embeddings, score.only("global")),
                         similarity_matrix(embeddings, score.only("local"))])  # fmt: skip
    spread = parts.flatten(1).std(1).clamp(min=1e-6)
    mixes = _Mixes(embeddings, parts / spread[:, None, None])
    before, global_only = torch.tensor([score.global_weight, score.local_weight]) * spread, torch.tensor([1.0, 0.0])
    fitted = mixes.fit().clamp(min=0)
    best = before if mixes.is_better(before, global_only) else global_only
    best = fitted if mixes.is_better(fitted, best) else best
    rsum, rsum_before = mixes.rsum(best), mixes.rsum(before)
    if best is before:
        return ScoreWeights(score.global_weight, score.local_weight, rsum, rsum_before)
    weights = best / spread
    of_global, of_local = (weights / (weights[0] if weights[0] > 0 else weights[1])).tolist()
    return ScoreWeights(of_global, of_local, rsum, rsum_before)


class _Mixes:
    """Weighted sums of similarities (P, I, T), judged by what belongs together."""

    def __init__(self, embeddings: RetrievalEmbeddings, parts: Tensor) -> None:
        self.parts, self.owners = parts, embeddings.text_to_image
        self.is_own = self.owners[None] == torch.arange(parts.shape[1])[:, None]
        self.captions, self.photos = (relevant_rows(embeddings, way) for way in ("i2t", "t2i"))

    def fit(self, parts: Tensor | None = None) -> Tensor:
        """Return the factors (P,) of similarities whose sum explains the pairs best; the problem is convex."""
        parts = self.parts if parts is None else parts
        factors = torch.ones(len(parts), requires_grad=True)
        optimizer = torch.optim.LBFGS([factors], max_iter=50, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            cost = self._costs(_mix(parts, factors)).mean()
            cost.backward()
            return cost

        optimizer.step(closure)
        return factors.detach()

    def is_better(self, weights: Tensor, others: Tensor) -> bool:
        """Tell whether weights explain the photos clearly better than others do, at no lower rsum."""
        gain = self._photo_costs(others) - self._photo_costs(weights)
        is_clear = gain.mean() > _CLEAR * gain.std() / len(gain) ** 0.5
        return bool(is_clear) and self.rsum(weights) >= self.rsum(others)

    def rsum(self, weights: Tensor) -> float:
        """Return the sum of recalls of a mix."""
        scores = _mix(self.parts, weights)
        captions = relevant_positions(scores.numpy(), self.captions)
        positions = {"i2t": captions[captions[:, 0] >= 0], "t2i": relevant_positions(scores.T.numpy(), self.photos)}
        return retrieval_summary(positions)["rsum"]

    def _photo_costs(self, weights: Tensor) -> Tensor:
        """Return each photo's cost under a mix, at the temperature that suits the mix best."""
        mixed = _mix(self.parts, weights)
        costs = self._costs(mixed * self.fit(mixed[None]))
        return torch.zeros(len(mixed)).index_add_(0, self.owners, costs)[self.owners.unique()]

    def _costs(self, logits: Tensor) -> Tensor:
        """Return each caption's cost (T,): -log p(its photo | caption) - log p(caption | its photo)."""
        matching = logits.gather(0, self.owners[None])[0]
        others = logits.masked_fill(self.is_own, -torch.inf).logsumexp(1)[self.owners]
        return logits.logsumexp(0) - matching + torch.logaddexp(matching, others) - matching


def _mix(parts: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("p,pit->it", weights, parts)
