# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a camera wrote into a picture's file: when, with what and where it was taken (EXIF 2.32)."""

import math
import re
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from modeling_tgdt.image_loading_tgdt import known_formats

_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d:\d\d:\d\d).*", re.DOTALL)


def read_exif(path: Path) -> dict[str, Any]:
    """Read date, camera and place of a picture's file; no pixel is decoded.

    Args:
        path: The file.

    Returns:
        `taken` (local time as `2024-05-31T18:20:00`, which sorts and has prefixes), `camera`, and `latitude` and
        `longitude` in degrees, those that the file tells.
    """
    try:
        if not path.is_file():
            return {}
        with Image.open(path, formats=known_formats()) as picture:
            tags = picture.getexif()
            details, gps = tags.get_ifd(IFD.Exif), tags.get_ifd(IFD.GPSInfo)
        taken = _time(details.get(Base.DateTimeOriginal)) or _time(tags.get(Base.DateTime))
        camera = _text(tags.get(Base.Model))
        latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "S", 90)
        longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "W", 180)
    except Exception:  # Pillow raises nearly every type on broken files; a picture is worth indexing without it
        return {}
    both = None not in (latitude, longitude)
    values: dict[str, Any] = {"taken": taken, "camera": camera}
    values |= {"latitude": latitude, "longitude": longitude} if both else {}
    return {key: value for key, value in values.items() if value is not None}


def _text(value: Any) -> str | None:
    text = "".join(letter for letter in str(value or "").split("\0")[0] if letter.isprintable()).strip()
    return text or None


def _time(value: Any) -> str | None:
    match = _TIME.fullmatch(str(value or ""))
    return None if match is None else "{}-{}-{}T{}".format(*match.groups())


def _degrees(parts: Any, reference: Any, negative: str, most: int) -> float | None:
    """Return degrees from degrees, minutes and seconds."""
    if not isinstance(parts, tuple) or len(parts) != 3:
        return None
    value = sum(float(part) / 60**power for power, part in enumerate(parts))
    sign = -1 if str(reference or "").strip("\0 ").upper() == negative else 1
    return sign * value if math.isfinite(value) and value <= most else None
