# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Tell the files that this user wrote from a stranger's, for files whose reader takes their content on trust.

Such a file ends with a keyed hash (HMAC-SHA-256, 32 bytes). The key is `TGDT_GALLERY_KEY`, or is made once in the
user's cache directory; machines that share galleries share the key.
"""

from __future__ import annotations

import hmac
import os
import secrets
from functools import cache
from pathlib import Path
from typing import IO

from .plain_files import read_inside

_KEY_VARIABLE, _BLOCK = "TGDT_GALLERY_KEY", 1 << 24
SIGNATURE_BYTES = 32


def signature(file: IO[bytes], length: int) -> bytes:
    """Return the keyed hash of the next `length` bytes of a file."""
    digest = hmac.new(_key(), digestmod="sha256")
    while length > 0:
        block = file.read(min(length, _BLOCK))
        if not block:
            break
        digest.update(block)
        length -= len(block)
    return digest.digest()


def is_own(root: Path, name: str, length: int) -> bool:
    """Tell whether the `length` bytes of a gallery's file end with the keyed hash of what stands before it."""
    with read_inside(root, name) as file:
        expected = signature(file, length - SIGNATURE_BYTES)
        return hmac.compare_digest(expected, file.read(SIGNATURE_BYTES))


def _key() -> bytes:
    given = os.environ.get(_KEY_VARIABLE)
    return given.encode() if given else _stored_key(_key_path())


def _key_path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tgdt", "gallery.key")


@cache
def _stored_key(path: Path) -> bytes:
    """Read the key of this user, or make it; without a place for it, one for this process."""
    made = secrets.token_bytes(32)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(made)
            if path.exists():  # another process was faster
                temporary.unlink()
            else:
                os.replace(temporary, path)
        return path.read_bytes() or made
    except (OSError, RuntimeError):
        return made
