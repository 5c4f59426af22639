# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Durable files of a gallery: checksummed append, atomic replace, and the lock of the single writer."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .plain_files import open_inside, read_inside, replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt as _msvcrt
except ImportError:  # everywhere else
    _msvcrt = None  # type: ignore[assignment]

msvcrt: Any = _msvcrt
_LOCKED_BYTE = 1 << 30  # Windows locks bytes; one behind the owner's number leaves that readable
LOCK_NAME = "writer.lock"
_BLOCK = 1 << 24


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_bytes(root: Path, name: str, committed: Sequence[int], chunks: Iterable[Any]) -> list[int]:
    """Write `chunks` behind the committed bytes, dropping whatever an interrupted writer left behind it, and sync.

    Args:
        root: Directory of the gallery.
        name: File below it, made when missing; see `open_inside`.
        committed: Length and CRC-32 of the committed bytes; the file is cut to that length first.
        chunks: Contiguous arrays or bytes.

    Returns:
        The new length and the CRC-32 over the whole file.
    """
    start, crc = committed
    with os.fdopen(open_inside(root, name, os.O_RDWR | os.O_CREAT), "r+b") as file:
        _cut(file, start)
        file.seek(start)
        for chunk in chunks:
            view = memoryview(chunk)
            if view.nbytes:
                raw = view.cast("B")
                file.write(raw)
                crc, start = zlib.crc32(raw, crc), start + raw.nbytes
        file.flush()
        os.fsync(file.fileno())
    return [start, crc]


def _cut(file: BinaryIO, size: int) -> None:
    """Drop what lies behind the committed bytes, where the system lets go of a file that readers have mapped."""
    if os.fstat(file.fileno()).st_size > size:
        with contextlib.suppress(PermissionError):  # Windows; nobody reads behind the committed length
            file.truncate(size)


def file_crc(root: Path, name: str, length: int) -> int | None:
    """Return the CRC-32 of the first `length` bytes; None when the file is shorter, missing or no regular file."""
    try:
        opened = read_inside(root, name)
    except (FileNotFoundError, ValueError):
        return None
    crc = 0
    with opened as file:
        if os.fstat(file.fileno()).st_size < length:
            return None
        while length:
            block = file.read(min(length, _BLOCK))
            crc, length = zlib.crc32(block, crc), length - len(block)
    return crc


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file atomically and durably; it carries a checksum of its own content."""
    body = {**content, "checksum": _checksum(content)}
    with replacing(path) as file:
        file.write(json.dumps(body, indent=1).encode())
    sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `replace_json` wrote; raise ValueError when it is damaged."""
    try:
        with read_inside(path.parent, path.name) as file:
            content = json.loads(file.read().decode())
        checksum = content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it from a copy or build the gallery again.") from error
    if checksum != _checksum(content):
        raise ValueError(f"{path} is damaged (checksum differs). Restore it from a copy or build the gallery again.")
    return content


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


@contextlib.contextmanager
def clear_os_errors(path: Path, action: str) -> Iterator[None]:
    """Re-raise an OSError with what was attempted and that the committed gallery is intact."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # ours already
            raise
        reason = error.strerror or str(error)
        hint = "Free some space or check that the directory is writable, then try again."
        message = f"could not {action} {str(path)!r}: {reason}. The gallery keeps its last committed state. {hint}"
        raise OSError(error.errno, message) from error


class GalleryBusyError(RuntimeError):
    """Another writer has the gallery open."""


class WriterLock:
    """Exclusive lock of one writer. The operating system frees it when the writer's process dies."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_NAME
        self._handle: int | None = None

    def acquire(self, *, shared: bool = False) -> bool:
        """Take the lock; False when it was already ours. GalleryBusyError when another writer holds it.

        Args:
            shared: Hold it together with the other processes of a group; one that is ours is held so from now on.
        """
        if self._handle is not None and not shared:
            return False
        handle, self._handle = self._handle, None
        if handle is None:
            handle = open_inside(self.path.parent, LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            self._lock(handle, shared)
        except (BlockingIOError, PermissionError):
            os.lseek(handle, 0, os.SEEK_SET)
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise GalleryBusyError(
                f"Another writer (process {owner}) has {str(self.path.parent)!r} open. "
                "close() that index or wait for it to end. Searching works meanwhile."
            ) from None
        self._handle = handle
        if shared:
            return True
        with contextlib.suppress(OSError):  # the number only serves the message; a full disk must not stop a delete
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
        return True

    def release(self) -> None:
        """Free the lock; nothing happens when it is not held."""
        if self._handle is None:
            return
        self._unlock(self._handle)  # a method: it is still there when the interpreter ends
        os.close(self._handle)
        self._handle = None

    @staticmethod
    def _lock(handle: int, shared: bool) -> None:
        """Take the lock or raise; without either module one writer per gallery is the caller's duty."""
        if fcntl is not None:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif shared:
            raise OSError(
                "Several processes fill a gallery together only where the system has flock. Use one process."
            )
        elif msvcrt is not None:
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    @staticmethod
    def _unlock(handle: int) -> None:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for copies of the handle in forked workers
        elif msvcrt is not None:
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
