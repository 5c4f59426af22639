# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Settings of the whole test run."""

import os

import pytest
import torch

from tests.transformers_suites import MARKERS

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on NumPy; it reads this when it is imported


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of transformers' common suites; our own are in pyproject.toml."""
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: from transformers' common suites")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
