# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a run leaves behind: metrics as JSON, curves as a picture."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the whole new one.

    Args:
        path: Target file; its folder exists.
        content: What `json` can write.
    """
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def plot_curves(history: Sequence[Mapping[str, float]], path: Path) -> Path | None:
    """Draw loss and retrieval curves of a run; `None` where matplotlib is not installed.

    Args:
        history: `trainer.state.log_history`, of one stage or several after each other.
        path: PNG to write.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in ("loss", "loss_global", "loss_local", "loss_matryoshka", "loss_intra", "loss_distill"):
        _draw(left, history, key)
    for mode in ("global", "local", "two_stage"):
        _draw(right, history, f"eval_{mode}_rsum")
    for axes, title in ((left, "training loss"), (right, "rsum on the evaluation photos")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def _draw(axes: Any, history: Sequence[Mapping[str, float]], key: str) -> None:
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=key.removeprefix("eval_"), marker="o", markersize=3)
