# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a picture may cost, before it is decoded."""

import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_tgdt.image_loading_tgdt import MAX_BYTES, MAX_SCANS, check_scans, open_image, read_picture, rgb_picture
from tests.tiny_retrieval import random_picture, tiny_retriever
from trainer.images import read_image, why_unreadable

READERS = pytest.mark.parametrize("read", [open_image, read_picture, read_image])


def jpeg(**options: Any) -> bytes:
    buffer = BytesIO()
    random_picture(0, (64, 64)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_scans(scans: int) -> bytes:
    data = jpeg(progressive=True)
    start, own = data.rindex(b"\xff\xda"), data.count(b"\xff\xda")
    return data[:start] + data[start:-2] * (scans - own + 1) + b"\xff\xd9"


@READERS
def test_scans_of_a_jpeg_are_bounded(read: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(with_scans(MAX_SCANS))
    assert read(path).size == (64, 64)
    path.write_bytes(with_scans(MAX_SCANS + 1))
    with pytest.raises(ValueError, match="more than 100 scans"):
        read(path)
    assert "more than 100 scans" in (why_unreadable(path) or "")


@pytest.mark.parametrize(("pixels", "most"), [(1, 100), (1 << 24, 64), (1 << 25, 32), (1 << 30, 16)])
def test_a_large_picture_has_fewer_scans(pixels: int, most: int) -> None:
    """Each scan is a pass over all pixels: 2**30 of them, or 16 scans."""
    check_scans(b"\xff\xd8" + b"\xff\xda\x00\x02" * most, "x", pixels)
    with pytest.raises(ValueError, match=f"more than {most} scans"):
        check_scans(b"\xff\xd8" + b"\xff\xda\x00\x02" * (most + 1), "x", pixels)


def test_a_marker_without_length_hides_no_scans() -> None:
    """TEM (FF 01) stands alone: what follows it is no length to skip by."""
    with pytest.raises(ValueError, match="more than 16 scans"):
        check_scans(b"\xff\xd8\xff\x01\xff\xff" + b"\xff\xda\x00\x02" * 17, "x", 1 << 27)


def test_only_scans_of_the_picture_count() -> None:
    """Cameras put pictures and films behind and inside a picture, in which any bytes may stand."""
    data, many = jpeg(restart_marker_blocks=1), b"\xff\xda\x00\x02" * 500
    comment = b"\xff\xfe" + (len(many) + 2).to_bytes(2, "big") + many
    check_scans(data + many, "x", 64 * 64)
    check_scans(data[:2] + comment + data[2:], "x", 64 * 64)
    check_scans(b"\x89PNG" + many, "x", 64 * 64)
    for end in range(0, len(data), 7):
        check_scans(data[:end], "x", 64 * 64)


def ycbcr_tiff(subsampling: int, units: bytes) -> bytes:
    """Return an uncompressed TIFF of 4 x 2 pixels whose colours are given once for each square of so many pixels."""
    tags = [
        *[(256, 3, 1, 4), (257, 3, 1, 2), (258, 3, 3, 10 + 11 * 12), (259, 3, 1, 1), (262, 3, 1, 6), (273, 4, 1, 150)],
        *[(277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, len(units)), (530, 3, 2, subsampling * 0x10001), (284, 3, 1, 1)],
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<4H", 8, 8, 8, 0) + units


@READERS
@pytest.mark.parametrize(
    ("subsampling", "units"), [(1, bytes([76, 85, 255] * 8)), (2, bytes([76, 76, 76, 76, 85, 255] * 2))]
)
def test_an_uncompressed_ycbcr_tiff_is_read(
    read: Callable[[Any], Any], subsampling: int, units: bytes, tmp_path: Path
) -> None:
    (tmp_path / "red.tif").write_bytes(ycbcr_tiff(subsampling, units))
    picture = rgb_picture(read(tmp_path / "red.tif"))
    assert picture.size == (4, 2)
    assert np.abs(np.asarray(picture).astype(int) - [255, 0, 0]).max() <= 2


@READERS
@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1), (10_000, 9_000)])
def test_sides_and_pixels_are_bounded(read: Callable[[Any], Any], tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("1", size).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels"):
        read(tmp_path / "x.png")
    Image.new("1", (1, 65_535)).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png").size == (1, 65_535)


def test_what_is_no_picture_file_is_skipped_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    random_picture(0).save(folder / "a.png")
    (folder / "link.png").symlink_to("a.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to("nothing")
    os.mkfifo(folder / "pipe.png")
    with open(folder / "sparse.png", "wb") as file:
        file.truncate(40 << 30)
    report = tiny_retriever().add_images(folder, on_error="skip", progress=False)
    assert report.added == 2
    reasons = dict(report.skipped)
    assert set(reasons) == {"zero.png", "gone.png", "pipe.png", "sparse.png"}
    assert "not a regular file" in reasons["zero.png"] and "not a regular file" in reasons["pipe.png"]
    assert f"more than the {MAX_BYTES} allowed" in reasons["sparse.png"]
