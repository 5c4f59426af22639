# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Date, camera and place that a picture's file tells."""

import os
from pathlib import Path

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from trainer.data.exif import read_exif


def write(path: Path, base: dict[int, object], place: dict[int, object] | None = None) -> Path:
    exif = Image.Exif()
    for tag, value in base.items():
        (exif.get_ifd(IFD.Exif) if tag == Base.DateTimeOriginal else exif)[tag] = value
    exif.get_ifd(IFD.GPSInfo).update(place or {})
    Image.new("RGB", (4, 4)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_file_tells_date_camera_and_place(tmp_path: Path, suffix: str) -> None:
    place = {
        GPS.GPSLatitudeRef: "S",
        GPS.GPSLatitude: (IFDRational(33), IFDRational(51), IFDRational(36)),
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: (IFDRational(151), IFDRational(12), IFDRational(0)),
    }
    base = {Base.DateTimeOriginal: "2024:05:31 18:20:00", Base.DateTime: "2025:01:01 00:00:00", Base.Model: "X100V "}
    found = read_exif(write(tmp_path / f"a.{suffix}", base, place))
    assert found == {
        "taken": "2024-05-31T18:20:00", "camera": "X100V",
        "latitude": pytest.approx(-33.86), "longitude": pytest.approx(151.2),
    }  # fmt: skip


def test_what_a_file_does_not_tell_is_missing(tmp_path: Path) -> None:
    assert read_exif(write(tmp_path / "a.jpg", {Base.DateTime: "2025:01:01 00:00:00"})) == {
        "taken": "2025-01-01T00:00:00"
    }
    zeros = (IFDRational(0, 0),) * 3  # not a number, as some phones write where they had no signal
    odd = {GPS.GPSLatitude: zeros, GPS.GPSLongitude: (IFDRational(1),) * 3}
    assert read_exif(write(tmp_path / "b.jpg", {Base.DateTime: "yesterday", Base.Model: "\0"}, odd)) == {}
    Image.new("RGB", (4, 4)).save(tmp_path / "c.bmp")
    (tmp_path / "d.jpg").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "e.jpg")
    assert [read_exif(tmp_path / name) for name in ("c.bmp", "d.jpg", "e.jpg", "missing.jpg")] == [{}] * 4
