# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a picture may cost: the limits of the index, the service and the page, checked before anything is decoded."""

import os
import re
import stat

from PIL import Image

MAX_SIDE = 65_535  # as in JPEG; a longer side costs memory of its own, whatever the other one is
MAX_BYTES = 1 << 28  # the largest picture, uncompressed in RGB
MAX_SCANS = 100  # passes over a progressive JPEG; encoders write about ten, each costs as much as the whole picture
FEW_SCANS = 16  # as many are always allowed
MAX_SCANNED = 1 << 30  # pixels times scans: seconds, not minutes
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # in entropy-coded data: no stuffed byte, no restart


LARGER = "set PIL.Image.MAX_IMAGE_PIXELS (`tgdt index --max-pixels`) for larger ones that you trust"


def check_pixels(image: Image.Image, name: str, max_pixels: int | None = None) -> None:
    """Refuse a picture whose pixels are too many to decode, or one of whose sides is too long.

    Args:
        image: Opened, not yet decoded.
        name: What to call it.
        max_pixels: Most width x height; by default `PIL.Image.MAX_IMAGE_PIXELS`, where None means any number.

    Raises:
        ValueError: When it has more.
    """
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels, more than the {limit} allowed; {LARGER}")
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels, more than {MAX_SIDE} on a side")


def check_scans(data: bytes, name: str, pixels: int) -> None:
    """Refuse a JPEG of so many scans that it would be decoded for minutes.

    Args:
        data: Content of the file.
        name: What to call it.
        pixels: Width x height; a small picture may have more scans.

    Raises:
        ValueError: When there are more.
    """
    most = min(MAX_SCANS, max(FEW_SCANS, MAX_SCANNED // max(1, pixels)))
    if data.startswith(b"\xff\xd8") and _count_scans(data, most) > most:
        raise ValueError(f"{name} is a JPEG of more than {most} scans, as no camera and no editor writes")


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


def _count_scans(data: bytes, most: int) -> int:
    """Count the scans of the first picture in a JPEG, as far as one more than allowed."""
    place, scans = 2, 0
    while scans <= most and (found := _MARKER.search(data, place)):
        marker, place = found.group(1), found.end()
        if marker == b"\xd9":
            break
        scans += marker == b"\xda"
        place += int.from_bytes(data[place : place + 2], "big")  # the segment after the marker
    return scans
