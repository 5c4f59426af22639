# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The one way to a gallery's files: regular files inside its directory, never through a link.

A gallery may come from anybody. A link in the place of one of its files would be read, copied and pushed, or
overwritten, wherever it leads; a pipe would never end.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .mapping import map_bytes

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_ON_A_NETWORK = re.compile(r"[\\/]{2}|\w+:[\\/]{2}")
_AS_IT_IS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows; a pipe must not be waited for


def open_inside(root: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a file of a gallery.

    Args:
        root: Directory of the gallery.
        name: Path below it, with `/`.
        flags: Of `os.open`; with `os.O_CREAT` a missing file is made.

    Returns:
        File descriptor.

    Raises:
        FileNotFoundError: When it is missing.
        ValueError: When it is a link, a folder, a pipe or a device, or lies behind a link. For reading alone, a link
            of the Hub's download cache into that cache is followed.
    """
    path = root / name
    reading = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
    cached = reading and path.is_symlink() and _leads_into_the_cache(root.resolve() / name)
    behind = [root.joinpath(*Path(name).parts[:depth]) for depth in range(1, len(Path(name).parts))]
    if any(folder.is_symlink() for folder in behind) or (path.is_symlink() and not cached):
        raise _refusal(path)
    try:
        handle = os.open(path, flags | _AS_IT_IS | (0 if cached else _NO_LINK), 0o644)
    except (IsADirectoryError, PermissionError) as error:
        if path.is_dir():  # Windows denies what others call a directory
            raise _refusal(path) from error
        raise
    except OSError as error:  # a link that came between, or a pipe without a reader
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _refusal(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refusal(path)
    return handle


def read_inside(root: Path, name: str) -> IO[bytes]:
    """Open a file of a gallery for reading; see `open_inside`."""
    return os.fdopen(open_inside(root, name), "rb")


def write_fresh(root: Path, name: str) -> IO[bytes]:
    """Make a file anew for writing; whatever had its name, a link among others, is removed and not written to."""
    (root / name).unlink(missing_ok=True)
    return os.fdopen(open_inside(root, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file durably beside another, which it replaces when the block ends, and not at all when it fails."""
    temporary = path.with_suffix(".tmp")
    with write_fresh(path.parent, temporary.name) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def map_inside(root: Path, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Map the beginning of a file of a gallery read-only; ValueError when it is shorter than that."""
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype=dtype)
    with read_inside(root, name) as file:
        if os.fstat(file.fileno()).st_size < size:
            raise ValueError(f"{Path(name).name} is shorter than its {size} bytes")
        return map_bytes(file.fileno(), size).view(dtype).reshape(shape)


def tree_inside(root: Path, name: str) -> list[str]:
    """List every file below a folder of a gallery, as paths below the gallery; ValueError for a link or a pipe."""
    paths = []
    for parent, folders, names in os.walk(root / name):
        for entry in sorted([*folders, *names]):
            path = Path(parent, entry)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _refusal(path)
        paths += [Path(parent, entry).relative_to(root).as_posix() for entry in sorted(names)]
    if (root / name).is_symlink():
        raise _refusal(root / name)
    return paths


def check_tree(root: Path, name: str) -> None:
    """Refuse a link or a pipe below a folder, as `open_inside` does for reading."""
    for path in (root / name).rglob("*"):
        if path.is_symlink() or not path.is_dir():
            read_inside(root, path.relative_to(root).as_posix()).close()


def is_downloaded(path: Path) -> bool:
    """Tell whether a directory lies in the Hub's download cache: nobody on this machine wrote what is in it."""
    blobs = _blobs_of(path.resolve())
    return blobs is not None and blobs.is_dir()


def is_on_a_network(name: str) -> bool:
    """Tell whether a name is a URL, or a share of Windows, to which a mere look at it connects."""
    return _ON_A_NETWORK.match(name) is not None


def _leads_into_the_cache(path: Path) -> bool:
    """Tell whether a link is one of huggingface_hub's: from `snapshots` to a file in `blobs` beside it."""
    blobs = _blobs_of(path)
    return blobs is not None and not blobs.is_symlink() and path.resolve().parent == blobs.resolve()


def _blobs_of(path: Path) -> Path | None:
    """Return where the download cache around a path keeps its files, should there be one."""
    return next((parent.parent / "blobs" for parent in path.parents if parent.name == "snapshots"), None)


def _refusal(path: Path) -> ValueError:
    return ValueError(
        f"{str(path)!r} is not a regular file of its directory (a link, a folder, a pipe or a device); nothing is "
        "read from it or written to it. Put the file itself there, or leave this directory alone."
    )
