# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Where a training started and where it ended, in the metric that chooses the best checkpoint."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


def start_and_end(state: Any, args: Any) -> dict[str, float]:
    """Return the metric before the first step and that of the weights which a training leaves behind.

    A training that ends below its start, or whose start stayed the best, is logged as a warning.

    Args:
        state: `transformers.TrainerState` at the end of the training.
        args: [`CMCTrainingArguments`].

    Returns:
        `start_<metric>` and `end_<metric>`; nothing where the start was not measured.

    Example:
        >>> from types import SimpleNamespace
        >>> history = [{"step": 0, "eval_rsum": 300.0}, {"step": 9, "eval_rsum": 310.0}]
        >>> args = SimpleNamespace(metric_for_best_model="rsum", load_best_model_at_end=False)
        >>> start_and_end(SimpleNamespace(log_history=history, best_metric=None), args)
        {'start_rsum': 300.0, 'end_rsum': 310.0}
    """
    metric = (args.metric_for_best_model or "rsum").removeprefix("eval_")
    measured = [(entry["step"], entry[f"eval_{metric}"]) for entry in state.log_history if f"eval_{metric}" in entry]
    if not measured or measured[0][0] != 0:
        return {}
    start, last = measured[0][1], measured[-1][1]
    end = state.best_metric if args.load_best_model_at_end else last
    advice = "Lower learning_rate and text_learning_rate, freeze a tower, or add photos."
    if args.load_best_model_at_end and end == start and len(measured) > 1:
        logger.warning("No checkpoint beats the start (%s %.1f): its weights are back. %s", metric, start, advice)
    elif metric == "rsum" and end < start:
        remedy = "load_best_model_at_end=True keeps the best."
        logger.warning("The training ended at rsum %.1f, below its start of %.1f. %s %s", end, start, remedy, advice)
    return {f"start_{metric}": start, f"end_{metric}": end}
