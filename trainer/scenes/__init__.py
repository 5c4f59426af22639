# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Drawn scenes with captions: an embedded data set whose look-alikes differ in exactly one detail."""

from .dataset import make_scenes

__all__ = ["make_scenes"]
