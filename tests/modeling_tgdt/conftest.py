# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What tests of the package share."""

from collections.abc import Callable

import pytest

import modeling_tgdt.gallery.scan
import modeling_tgdt.kernels.maxsim
import modeling_tgdt.kernels.ranking


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what switches the compiled kernel off until the test ends: PyTorch and NumPy do its work."""

    def switch_off() -> None:
        for module in (modeling_tgdt.gallery.scan, modeling_tgdt.kernels.maxsim, modeling_tgdt.kernels.ranking):
            monkeypatch.setattr(module, "kernel", None)

    return switch_off
