# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Is there a match at all? A threshold on the scores of hits, fitted on queries whose match is known.

A score alone tells little: some queries are near everything. So a hit is judged by its score beside those of the items
that follow on the query's shortlist, by logistic regression on the three numbers of `features`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..gallery.plain_files import read_inside, replacing

THRESHOLD_FILE = "threshold.json"
_RIDGE, _STEPS = 1e-2, 50
_ROUNDING = 1e-5  # of a probability: a query alone has other last bits than among others


@dataclass(frozen=True)
class ScoreThreshold:
    """What `TGDTRetriever.fit_threshold` found; `search(..., min_score=...)` takes it.

    Attributes:
        weights: Of a hit's score, and of mean and standard deviation of the shortlist's scores.
        bias: Added to their sum; the logistic function of it is the probability of a match.
        probability: Hits below it are left out.
        candidates: Size of the shortlists.
        true_positive_rate: Share of the sample's queries with a match on their shortlist that keep a hit.
        false_positive_rate: Share of the sample's queries without a match that keep a hit.
        auroc: Of the probabilities of best hits, queries with a match against queries without.
        raw_false_positive_rate: What the same share is with a threshold on the score alone.
        raw_auroc: Of the scores alone.
    """

    weights: tuple[float, float, float]
    bias: float
    probability: float
    candidates: int
    true_positive_rate: float
    false_positive_rate: float
    auroc: float
    raw_false_positive_rate: float
    raw_auroc: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return for each hit the probability that it is a match.

        Args:
            scores: (N,) scores of a query's shortlist, best first.
        """
        if not len(scores):
            return np.zeros(0)
        mean, spread = _background(scores)
        return _logistic(scores * self.weights[0] + mean * self.weights[1] + spread * self.weights[2] + self.bias)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it beside a gallery."""
        with replacing(Path(folder, THRESHOLD_FILE)) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ScoreThreshold:
        """Read what `save` wrote.

        Raises:
            ValueError: When there is none, or it is damaged.
        """
        path = Path(folder, THRESHOLD_FILE)
        try:
            with read_inside(path.parent, path.name) as file:
                content = json.loads(file.read().decode())
            threshold = cls(**{**content, "weights": tuple(map(float, content["weights"]))})
            numbers = [*threshold.weights, threshold.bias, threshold.probability, threshold.candidates]
            if len(threshold.weights) != 3 or not np.isfinite(np.array(numbers, float)).all():
                raise TypeError("its numbers are not those of a threshold")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected a fitted threshold at {str(path)!r}, found none that can be read ({error}). Fit one with "
                "TGDTRetriever.fit_threshold(...).save(G), or give a number."
            ) from error
        return threshold


def fit_threshold(
    scores: Sequence[np.ndarray], matches: Sequence[np.ndarray], candidates: int, true_positive_rate: float
) -> ScoreThreshold:
    """Fit a threshold.

    Args:
        scores: For each query the scores of its shortlist, best first.
        matches: For each query (n,) bool, true for the items that match; all false: the gallery has none.
        candidates: Size of the shortlists.
        true_positive_rate: Share of the queries with a match that must keep a hit, in (0, 1].

    Returns:
        The threshold. Where a query has matches, its shortlist without them serves as a query that has none. Best hits
        are compared, whether they are the match or not: a match that stands behind others looks like none.

    Raises:
        ValueError: When no query finds a match, or the rate is out of range.
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must be above 0 and at most 1, found {true_positive_rate!r}.")
    rows = [(shortlist, shortlist[good], shortlist[~good]) for shortlist, good in zip(scores, matches, strict=True)]
    inside = np.array([_features(shortlist, shortlist[0]) for shortlist, hits, _ in rows if len(hits)])
    outside = np.array([_features(rest, rest[0]) for _, _, rest in rows if len(rest)])
    if not len(inside) or not len(outside):
        raise ValueError(
            f"Expected shortlists that hold the match and other items, found {len(inside)} matches on {len(rows)} "
            "shortlists. Give queries whose match is in the gallery."
        )
    weights = _logistic_regression(inside, outside)
    yes, no = (_logistic(part @ weights[:3] + weights[3]) for part in (inside, outside))
    least = max(0.0, float(np.quantile(yes, 1 - true_positive_rate, method="lower")) - _ROUNDING)
    least_score = np.quantile(inside[:, 0], 1 - true_positive_rate, method="lower")
    return ScoreThreshold(
        weights=(float(weights[0]), float(weights[1]), float(weights[2])),
        bias=float(weights[3]),
        probability=least,
        candidates=candidates,
        true_positive_rate=float((yes >= least).mean()),
        false_positive_rate=float((no >= least).mean()),
        auroc=auroc(yes, no),
        raw_false_positive_rate=float((outside[:, 0] >= least_score).mean()),
        raw_auroc=auroc(inside[:, 0], outside[:, 0]),
    )


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the share of pairs whose positive is above the negative; ties count half.

    Example:
        >>> auroc(np.array([0.9, 0.4]), np.array([0.1, 0.4]))
        0.875
    """
    ordered = np.sort(negatives)
    below, upto = (np.searchsorted(ordered, positives, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(ordered))


def _background(scores: np.ndarray) -> tuple[float, float]:
    return float(scores.mean()), float(scores.std())


def _features(shortlist: np.ndarray, score: float) -> tuple[float, float, float]:
    return (float(score), *_background(shortlist))


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


def _logistic_regression(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Fit three weights and a bias by Newton's method on standardised features; both classes count alike."""
    features = np.concatenate([positives, negatives])
    target = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    importance = np.repeat([0.5 / len(positives), 0.5 / len(negatives)], [len(positives), len(negatives)])
    center, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1
    design = np.column_stack([(features - center) / spread, np.ones(len(features))])
    ridge = _RIDGE * np.diag([1.0, 1.0, 1.0, 0.0])
    weights = np.zeros(4)  # of the three features, and the bias, which is not shrunk
    for _ in range(_STEPS):
        chance = _logistic(design @ weights)  # (N,)
        gradient = design.T @ (importance * (chance - target)) + ridge @ weights
        curvature = (design * (importance * np.maximum(chance * (1 - chance), 1e-9))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature + 1e-12 * np.eye(4), gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    plain = weights[:3] / spread  # for features that are not standardised
    return np.append(plain, weights[3] - plain @ center)


__all__ = ["THRESHOLD_FILE", "ScoreThreshold", "auroc", "fit_threshold"]
