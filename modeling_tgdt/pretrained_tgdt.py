# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Load models of which only a part is kept: silent about what is dropped on purpose, not about what is missing."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

_TOWERS = ("vision_model", "text_model")
_REPORT = "LOAD REPORT"


def load_whole(loader: Any, name_or_path: str, **options: Any) -> PreTrainedModel:
    """Load a model whose heads and poolers may be absent from its files, or have no place in it.

    Args:
        loader: Class with `from_pretrained`.
        name_or_path: Hub id or directory.
        **options: Of `from_pretrained`.

    Returns:
        The model. It and its towers have an attribute `absent_weights`, the names of those that are new and random;
        see `absent_weights`.
    """
    with _held_report():
        model, info = loader.from_pretrained(name_or_path, output_loading_info=True, **options)
    absent = {name if isinstance(name, str) else name[0] for name in info["missing_keys"]}
    model.absent_weights = absent
    for tower in _TOWERS:
        if isinstance(getattr(model, tower, None), PreTrainedModel):
            getattr(model, tower).absent_weights = {
                name.removeprefix(f"{tower}.") for name in absent if name.startswith(f"{tower}.")
            }
    return model


def absent_weights(model: Any) -> set[str]:
    """Return which weights of a model that `load_whole` gave were in none of its files."""
    return set(getattr(model, "absent_weights", ()))


@contextlib.contextmanager
def _held_report() -> Iterator[None]:
    """Hold transformers' report of a load back; where the load fails it is what the error refers to, and shown."""
    logger, held = logging.getLogger("transformers.modeling_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        is_report = _REPORT in record.getMessage()
        held.extend([record] if is_report else [])
        return not is_report

    logger.addFilter(hold)
    try:
        yield
        held.clear()
    finally:
        logger.removeFilter(hold)
        for record in held:
            logger.handle(record)


__all__ = ["absent_weights", "load_whole"]
