# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Memory maps that keep no file open: a gallery of many segments would else run out of file descriptors."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np

_READ, _SHARED = 1, 1  # PROT_READ and MAP_SHARED, everywhere that has mmap


class _Mapping:
    """Bytes of a file at an address, given back when no array looks at them any more."""

    def __init__(self, libc: Any, handle: int, size: int) -> None:
        self._libc, self._size = libc, size
        self._address = libc.mmap(None, size, _READ, _SHARED, handle, 0)
        if self._address in (None, ctypes.c_void_p(-1).value):
            self._address = None
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self._address, True), "version": 3}

    def __del__(self) -> None:
        if self._address is not None:
            self._libc.munmap(self._address, self._size)


def _c_library() -> Any:
    """Return the C library's `mmap`, for Pythons whose own keeps a copy of the file's descriptor (before 3.13)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.munmap.restype = ctypes.c_void_p, ctypes.c_int
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


_LIBC = _c_library() if os.name == "posix" and sys.version_info < (3, 13) else None


def map_bytes(handle: int, size: int) -> np.ndarray:
    """Map the first bytes of a file read-only.

    Args:
        handle: File descriptor, which may be closed afterwards.
        size: How many, at least one and at most what the file has.

    Returns:
        (size,) uint8.

    Raises:
        OSError: When the system maps no more.
    """
    if _LIBC is not None:
        return np.asarray(_Mapping(_LIBC, handle, size))
    options: dict[str, Any] = {} if os.name == "nt" else {"trackfd": False}
    return np.frombuffer(mmap.mmap(handle, size, access=mmap.ACCESS_READ, **options), np.uint8)
