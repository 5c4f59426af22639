# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Retrieval results as Markdown tables, for cards and terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_COLUMNS = (
    ("i2t R@1", "i2t_r1"),
    ("R@5", "i2t_r5"),
    ("R@10", "i2t_r10"),
    ("t2i R@1", "t2i_r1"),
    ("R@5", "t2i_r5"),
    ("R@10", "t2i_r10"),
    ("rsum", "rsum"),
    ("stage one", "stage1_recall"),
    ("ms/query", "query_ms"),
)
_SWEEP_COLUMNS = ("candidates", "rsum", "i2t_r1", "t2i_r1", "stage1_recall", "query_ms")


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return retrieval results as a Markdown table, one row per mode.

    Args:
        results: As [`evaluate_retrieval`] returns them.

    Example:
        >>> print(results_table({"global": {"rsum": 100.0}}).splitlines()[-1][:12])
        | global | -
    """
    return _table("mode", _COLUMNS, results)


def look_alike_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the share of look-alikes told apart as a Markdown table, one row per kind of change.

    Args:
        results: As [`look_alike_accuracy`] returns them.
    """
    columns = (("global", "global"), ("tokens", "local"), ("mixed", "mixed"))
    return _table("look-alikes told apart (guessing 50)", columns, results)


def grounding_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return where words point as a Markdown table, one row per kind of words.

    Args:
        results: As [`evaluate_grounding`] returns them.
    """
    columns = (
        ("nearest to its thing", "nearest"),
        ("random region", "nearest_chance"),
        ("inside its box", "inside"),
        ("random region", "inside_chance"),
    )
    return _table("best region of words", columns, results)


def _table(first: str, columns: Sequence[tuple[str, str]], results: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| {first} | " + " | ".join(title for title, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, metrics in results.items():
        cells = [f"{metrics[key]:.1f}" if key in metrics else "-" for _, key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sweep_table(rows: Sequence[Mapping[str, float]]) -> str:
    """Return a sweep as a Markdown table.

    Args:
        rows: Result of [`shortlist_sweep`]; metrics that are absent are left out.

    Example:
        >>> print(sweep_table([{"candidates": 10.0, "rsum": 400.25}]))
        | candidates | rsum |
        |---:|---:|
        | 10 | 400.25 |
    """
    shown = [name for name in _SWEEP_COLUMNS if name in rows[0]]
    lines = ["| " + " | ".join(shown) + " |", "|" + "---:|" * len(shown)]
    for row in rows:
        cells = [f"{row[name]:.0f}" if name == "candidates" else f"{row[name]:.2f}" for name in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
