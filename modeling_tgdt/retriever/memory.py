# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""How a long-running verb takes memory from the system."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_BYTES = 1 << 30
_LARGEST_MMAP = 1 << 25  # glibc refuses more
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_large_blocks() -> bool:
    """Let glibc keep the buffers of a batch for the next one.

    By default it maps large blocks anew and gives them back, and the kernel clears every page again, a good part of
    the CPU time of encoding pictures. Blocks above 32 MiB are mapped all the same.

    Returns:
        Whether it was done; not with another C library, nor where the environment sets these thresholds.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _CHOSEN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another allocator is preloaded
        return False
    return bool(mallopt(_MMAP, _LARGEST_MMAP) and mallopt(_TRIM, _BYTES))


__all__ = ["keep_large_blocks"]
