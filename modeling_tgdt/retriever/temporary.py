# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Temporary files that a killed process leaves behind, and their removal by the next one."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import zlib
from pathlib import Path


def own_prefix(kind: str) -> str:
    """Return the beginning of a temporary name that tells its process, after removing what dead ones left.

    Args:
        kind: What it is for, such as "gallery".

    Example:
        >>> own_prefix("gallery").startswith("tgdt-gallery-")
        True
    """
    machine = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids of containers that share a folder differ
    sweep(f"tgdt-{kind}-{machine}-")
    return f"tgdt-{kind}-{machine}-{os.getpid()}-"


def sweep(prefix: str) -> None:
    """Remove what processes of this machine that are gone left in the temporary directory under a prefix."""
    if os.name == "nt":  # there a signal 0 ends the process
        return
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        number = re.match(r"\d+", path.name[len(prefix) :])
        if not number or _is_alive(int(number[0])):
            continue
        with contextlib.suppress(OSError):  # another process may sweep the same path
            if path.lstat().st_uid == os.getuid():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


__all__ = ["own_prefix", "sweep"]
