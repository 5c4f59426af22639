# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a picture may cost: the limits of the index, the service and the page, checked before anything is decoded."""

import os
import re
import stat

MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3  # where Pillow itself warns of a decompression bomb: 89 million
MAX_SIDE = 65_535  # as in JPEG; a longer side costs memory of its own, whatever the other one is
MAX_BYTES = 1 << 28  # the largest picture, uncompressed in RGB
MAX_SCANS = 100  # passes over a progressive JPEG; encoders write about ten, each costs as much as the whole picture
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # in entropy-coded data: no stuffed byte, no restart


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ValueError for a picture that is too large to decode.

    Args:
        width: Pixels.
        height: Pixels.
        max_pixels: Largest width x height.
    """
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels, more than the {max_pixels} allowed")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"it has {width} x {height} pixels, and a side of more than the {MAX_SIDE} allowed")


def check_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG of very many scans, which would be decoded for minutes."""
    if data.startswith(b"\xff\xd8") and (scans := _count_scans(data)) > MAX_SCANS:
        raise ValueError(f"it is a JPEG of more than {scans - 1} scans, found in no picture of a camera or editor")


def read_regular_file(path: str | os.PathLike[str]) -> bytes:
    """Read a picture's file.

    Args:
        path: A file, or a link to one.

    Raises:
        ValueError: When it is a device, a pipe or a folder, or larger than any picture.
        OSError: When it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"it has {found.st_size} bytes, more than the {MAX_BYTES} allowed")
        with open(handle, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    finally:
        os.close(handle)


def _count_scans(data: bytes) -> int:
    """Count the scans of the first picture in a JPEG, as far as one more than allowed."""
    place, scans = 2, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(data, place)):
        marker, place = found.group(1), found.end()
        if marker == b"\xd9":
            break
        scans += marker == b"\xda"
        place += int.from_bytes(data[place : place + 2], "big")  # the segment after the marker
    return scans
