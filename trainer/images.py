# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Read any picture as RGB, or say why it cannot be read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

from modeling_tgdt.image_loading_tgdt import MAX_BYTES, check_pixels, open_encoded, read_regular_file, rgb_picture

OnError = Literal["raise", "skip", "placeholder"]
ImageSource = Any  # path, bytes, PIL image, or {"bytes": ..., "path": ...} as `datasets` stores it

_GREY = (127, 127, 127)
_NAME = "the picture"


class UnreadableImageError(ValueError):
    """Raised when a picture is missing, empty, truncated, too costly or no picture at all."""


def check_policy(on_error: str) -> None:
    """Refuse an unknown policy for unreadable pictures.

    Args:
        on_error: `"raise"`, `"skip"` or `"placeholder"`.

    Raises:
        ValueError: When it is none of these.
    """
    if on_error not in ("raise", "skip", "placeholder"):
        raise ValueError(f"on_error must be 'raise', 'skip' or 'placeholder', found {on_error!r}.")


def read_image(source: ImageSource) -> Image.Image:
    """Decode a picture to RGB: upright by EXIF, first frame of animations, transparency on white.

    Args:
        source: Path, encoded bytes, PIL image, or the dictionary in which `datasets` keeps an undecoded picture.

    Returns:
        RGB picture, fully loaded; its file is closed.

    Raises:
        UnreadableImageError: With the reason, whatever the decoder raised.
    """
    try:
        with _open(source) as image:
            return _to_rgb(image)
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow plugins raise nearly every type on broken files
        raise UnreadableImageError(_reason(error)) from error


def why_unreadable(source: ImageSource, *, max_pixels: int | None = None) -> str | None:
    """Return why a picture cannot be read, or None when it can.

    The whole file is read, so truncation is found, but JPEGs are decoded at an eighth of their size, which is several
    times faster than [`read_image`].

    Args:
        source: As in [`read_image`].
        max_pixels: Largest width x height that is accepted; by default `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with _open(source, max_pixels) as image:
            if image.format == "JPEG":
                image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:
        return _reason(error)
    return None


def placeholder_image() -> Image.Image:
    """Return the grey square that stands for an unreadable picture."""
    return Image.new("RGB", (64, 64), _GREY)


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as PNG bytes.

    Args:
        image: Any PIL image.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _open(source: ImageSource, max_pixels: int | None = None) -> Image.Image:
    """Open a picture that may be decoded."""
    if isinstance(source, (Image.Image, np.ndarray)):
        image = source.copy() if isinstance(source, Image.Image) else Image.fromarray(source)
        check_pixels(image, _NAME, max_pixels)
        return image
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise UnreadableImageError("there is no picture in this row")
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise UnreadableImageError("the picture has 0 bytes")
        return open_encoded(bytes(source), _NAME, max_pixels)
    return open_encoded(_read(os.fspath(source)), _NAME, max_pixels)


def _read(path: str) -> bytes:
    if "://" in path:  # a file on the Hub or inside an archive, as streamed data sets name it
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            data = bytes(file.read(MAX_BYTES + 1))
        if len(data) > MAX_BYTES:
            raise UnreadableImageError(f"it has more than the {MAX_BYTES} bytes allowed: {path}")
    elif not os.path.exists(path):
        raise UnreadableImageError(f"no such file: {path}")
    else:
        data = read_regular_file(path)
    if not data:
        raise UnreadableImageError(f"the file is empty: {path}")
    return data


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return rgb_picture(image)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnreadableImageError) or type(error) is ValueError:
        return str(error)
    return f"{type(error).__name__}: {error}"
