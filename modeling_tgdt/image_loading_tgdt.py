# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""From any accepted picture (file, URL, PIL, array, tensor) to an upright 8-bit one."""

import base64
import binascii
import os
import time
from functools import cache
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image, ImageOps

# Decoders that only decode: Pillow would start Ghostscript for EPS.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MAX_DOWNLOAD = 1 << 28  # bytes: the largest picture that is read, uncompressed in RGB
_SIXTEEN_BIT = 257  # 65535 / 255
_NEXT_STEP = "Convert it with `PIL.Image.open(path).convert('RGB')` or pass a (height, width, 3) uint8 array."


def open_image(source: str | os.PathLike[str], timeout: float = 30.0) -> Image.Image:
    """Open a picture, first frame, fully decoded, in its own mode.

    Args:
        source: Path, `http(s)://` URL, or base64 text with or without a `data:image/...` prefix.
        timeout: See `download`.

    Raises:
        ValueError: When nothing readable is found, or the file is damaged.
    """
    name = os.fspath(source)
    try:
        image = Image.open(BytesIO(_read(name, timeout)), formats=known_formats())
        image.load()
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise ValueError(
            f"Expected a readable picture at {name[:200]!r}, found {type(error).__name__}: {error}. Check that the "
            "file exists, is complete and has a format that Pillow reads."
        ) from error
    return image


@cache
def known_formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def download(url: str, timeout: float = 30.0, max_bytes: int = _MAX_DOWNLOAD) -> bytes:
    """Fetch what is at a URL.

    Args:
        url: `http(s)://`; redirects are followed.
        timeout: Seconds until the first bytes and between two of them, and until the last: a trickle ends as well.
        max_bytes: Most bytes that are taken.

    Raises:
        ValueError: When there is no answer, too late an answer, or more than `max_bytes`.
    """
    deadline, data = time.monotonic() + timeout, bytearray()
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
            for part in answer.raise_for_status().iter_bytes():
                data += part
                if len(data) > max_bytes:
                    raise ValueError(f"{url[:200]!r} has more than the {max_bytes} bytes that are read from a URL")
                if time.monotonic() > deadline:
                    raise ValueError(f"{url[:200]!r} did not arrive within {timeout:g} seconds; download it first")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{url[:200]!r} cannot be downloaded: {type(error).__name__}: {error}") from error
    return bytes(data)


def _read(name: str, timeout: float) -> bytes:
    if name.startswith(("http://", "https://")):
        return download(name, timeout)
    if os.path.isfile(name):
        with open(name, "rb") as file:
            return file.read()
    try:
        return base64.b64decode(name.split(",", 1)[1] if name.startswith("data:image/") else name, validate=True)
    except (binascii.Error, ValueError, IndexError) as error:
        raise FileNotFoundError("neither a file, a URL, nor base64 text") from error


def upright_picture(image: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation and bring 16-bit, 32-bit and float modes to 8 bits.

    Other modes (palette, gray, alpha, CMYK) stay, so that the conversion to RGB still knows them.

    Args:
        image: Picture in any mode of Pillow.

    Raises:
        ValueError: When the mode cannot become RGB.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(_from_sixteen_bit(np.asarray(image)))
    if image.mode == "I":
        # Pillow gives this mode both to 8-bit and to 16-bit data.
        values = np.asarray(image)
        return Image.fromarray(_from_sixteen_bit(values) if values.max() > 255 else values.clip(0).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode in ("RGBa", "La"):
        return image.convert(image.mode.upper())
    if image.mode == "LAB":
        raise ValueError(f"Expected a picture that converts to RGB, found mode {image.mode!r}. {_NEXT_STEP}")
    return image


def eight_bit_array(array: Any, *, rescale: bool) -> Any:
    """Check one picture given as an array or tensor, and bring it to 8 bits.

    Args:
        array: numpy array or torch tensor (H, W), (H, W, C) or (C, H, W): uint8, uint16 (0..65535), bool, other
            integers in 0..255, or floats in [0, 1] or [0, 255].
        rescale: Whether the processor rescales afterwards. If not, floats are final values and stay as they are.

    Returns:
        The same kind (array or tensor, on its device), uint8 unless floats stay.

    Raises:
        ValueError: On wrong shapes, empty pictures, or values outside these ranges.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"Expected a picture of shape (H, W), (H, W, C) or (C, H, W), found {tuple(array.shape)}. {_NEXT_STEP}"
        )
    if isinstance(array, torch.Tensor):
        if array.dtype == torch.uint8:
            return array
        values = array.detach().to("cpu")
        values = values.float() if values.is_floating_point() else values
        return torch.from_numpy(_to_eight_bit(values.numpy(), rescale)).to(array.device)
    return _to_eight_bit(array, rescale)


def rgb_picture(image: Any) -> Image.Image:
    """Bring one picture to an upright 8-bit RGB one of Pillow.

    Args:
        image: Picture in any mode of Pillow, or an array or tensor as `eight_bit_array` takes it.

    Raises:
        ValueError: When it cannot become RGB.
    """
    if isinstance(image, Image.Image):
        return upright_picture(image).convert("RGB")
    array = np.asarray(eight_bit_array(image.cpu() if isinstance(image, torch.Tensor) else image, rescale=True))
    if array.ndim == 3 and channels_first(array):
        array = array.transpose(1, 2, 0)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array).convert("RGB")


def channels_first(array: Any) -> bool:
    """Tell the layout of a picture of three axes by its shape: 1, 3 or 4 channels, first or last.

    A one-pixel-high picture (1, W, 3) is read as channels last.

    Raises:
        ValueError: When neither end has 1, 3 or 4 channels.
    """
    first, last = array.shape[0], array.shape[-1]
    if first == 1 and last in (3, 4):
        return False
    if first in (1, 3, 4):
        return True
    if last in (1, 3, 4):
        return False
    raise ValueError(f"Expected 1, 3 or 4 channels, first or last, found shape {tuple(array.shape)}. {_NEXT_STEP}")


def _to_eight_bit(values: np.ndarray, rescale: bool) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return _from_sixteen_bit(values)
    if np.issubdtype(values.dtype, np.integer):
        if values.min() < 0 or values.max() > 255:
            raise ValueError(
                f"Expected integers in 0..255, found {values.dtype} in {values.min()}..{values.max()}. Use uint16 for "
                "16-bit pictures (0..65535)."
            )
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        return _from_floats(values) if rescale else values.astype(np.float32)
    raise ValueError(f"Expected numbers, found an array of {values.dtype}. {_NEXT_STEP}")


def _from_sixteen_bit(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 65535) / _SIXTEEN_BIT).astype(np.uint8)


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"Expected float pixels in [0, 1] or [0, 255], found {low:.4g}..{high:.4g}. For pixels that are already "
            "normalised, pass do_resize=False, do_rescale=False and do_normalize=False."
        )
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
