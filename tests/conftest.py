# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Settings of the whole test run."""

import pytest

from tests.transformers_suites import MARKERS


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of transformers' common suites; our own are in pyproject.toml."""
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: from transformers' common suites")
