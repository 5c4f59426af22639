# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Evaluations printed as the table of `tgdt evaluate`; loggers get every number under its own key, as ever."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from hub_cards.tables import results_table

from ..evaluation import MODES

_METRIC = re.compile(rf"(?P<prefix>.+?)_(?P<mode>{'|'.join(MODES)})_(?P<name>.+)")


def split_results(logs: Mapping[str, Any]) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, Any]]:
    """Part `<prefix>_<mode>_<metric>` from the other entries of a log.

    Args:
        logs: What `Trainer.log` was given.

    Returns:
        Prefix to mode to metrics, and the other entries.

    Example:
        >>> split_results({"eval_global_rsum": 300.0, "epoch": 1.0})
        ({'eval': {'global': {'rsum': 300.0}}}, {'epoch': 1.0})
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
    others: dict[str, Any] = {}
    for key, value in logs.items():
        match = _METRIC.fullmatch(key)
        if match is None:
            others[key] = value
        else:
            results.setdefault(match["prefix"], {}).setdefault(match["mode"], {})[match["name"]] = value
    return results, others


def _tables(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    return "\n".join(f"{prefix}:\n{results_table(modes)}" for prefix, modes in results.items())


class TableProgressCallback(ProgressCallback):
    """Progress bars, with a table for each evaluation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        results, others = split_results(logs or {})
        super().on_log(args, state, control, logs=others, **kwargs)
        if results and self.training_bar is not None:
            self.training_bar.write(_tables(results))


class TablePrinterCallback(PrinterCallback):
    """Printed logs, with a table for each evaluation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        results, others = split_results(logs or {})
        super().on_log(args, state, control, logs=others, **kwargs)
        if results and state.is_local_process_zero:
            sys.stdout.write(_tables(results) + "\n")


_TABLES: dict[type, type] = {ProgressCallback: TableProgressCallback, PrinterCallback: TablePrinterCallback}


def print_tables(callbacks: list[Any]) -> None:
    """Put the printers of this module in the places of transformers' own; subclasses of those stay.

    Args:
        callbacks: Of a Trainer; changed in place.
    """
    callbacks[:] = [_TABLES[type(callback)]() if type(callback) in _TABLES else callback for callback in callbacks]


__all__ = ["TablePrinterCallback", "TableProgressCallback", "print_tables", "split_results"]
