# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a shortlist size costs and gives: K against recall and query time, as rows and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeling_tgdt.similarity_tgdt import ScoreConfig

from ..evaluation import retrieval_metrics
from .embeddings import RetrievalEmbeddings

Row = dict[str, float]


def shortlist_sweep(
    embeddings: RetrievalEmbeddings,
    sizes: Sequence[int] = (10, 20, 50, 100, 200, 500),
    *,
    score: ScoreConfig | None = None,
    timed_queries: int = 16,
    progress: bool = False,
) -> list[Row]:
    """Evaluate the two-stage mode at several shortlist sizes, the same for both directions.

    Args:
        embeddings: The gallery, see [`encode_dataset`].
        sizes: Shortlist sizes K; those beyond the larger gallery are cut to it and kept once.
        score: Weights of the mixed score.
        timed_queries: Queries timed alone for `query_ms`.
        progress: Whether to show progress bars.

    Returns:
        One row per K, ascending: `candidates` and the metrics of [`retrieval_metrics`].

    Raises:
        ValueError: When there is no size, or one below 1.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be one or more numbers from 1, found {list(sizes)}.")
    largest = max(len(embeddings.image_embeds), len(embeddings.text_embeds))
    rows = []
    for size in sorted({min(size, largest) for size in sizes}):
        metrics = retrieval_metrics(
            embeddings,
            score=score,
            modes=["two_stage"],
            candidates=size,
            timed_queries=timed_queries,
            progress=progress,
        )
        rows.append({"candidates": float(size), **metrics["two_stage"]})
    return rows


def plot_sweep(rows: Sequence[Row], path: str | Path) -> Path:
    """Draw recall and query time against K.

    Args:
        rows: Result of [`shortlist_sweep`].
        path: Picture to write; its suffix gives the format.

    Returns:
        The path.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib: pip install 'tgdt[plot]'.") from error
    sizes = [row["candidates"] for row in rows]
    figure = Figure(figsize=(6, 4), layout="constrained")
    left = figure.subplots()
    left.plot(sizes, [row["stage1_recall"] for row in rows], "o--", label="stage-one recall")
    for name, label in (("t2i_r1", "text to image R@1"), ("i2t_r1", "image to text R@1")):
        left.plot(sizes, [row[name] for row in rows], "o-", label=label)
    left.set(xscale="log", xlabel="shortlist size K", ylabel="percent", ylim=(0, 105))
    if all("query_ms" in row for row in rows):
        right = left.twinx()
        right.plot(sizes, [row["query_ms"] for row in rows], "s:", color="grey", label="query time")
        right.set(ylabel="median query time, ms", ylim=(0, None))
    left.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    return Path(path)
