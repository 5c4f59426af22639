# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Temporary files and galleries, and the removal of what a killed process left by the next one."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..index_tgdt import TGDTIndex


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


def temporary_index(settings: Mapping[str, Any]) -> TGDTIndex:
    """Make a gallery in a directory that goes when nobody holds the index any more."""
    folder = tempfile.mkdtemp(prefix=own_prefix("gallery"))
    try:
        index = TGDTIndex.create(Path(folder), **settings)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
    return index


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


__all__ = ["own_prefix", "sweep", "temporary_index"]
