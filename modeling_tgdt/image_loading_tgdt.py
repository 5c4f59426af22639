# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""From any accepted picture (file, URL, PIL, array, tensor) to an upright 8-bit one.

What a picture may cost is limited here for index, service and page alike, before anything is decoded.
"""

import base64
import binascii
import os
import re
import stat
import struct
import time
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms

# Decoders that only decode: Pillow would start Ghostscript for EPS.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_SIDE = 65_535  # as in JPEG; a longer side costs memory of its own, whatever the other one is
MAX_BYTES = 1 << 28  # the largest picture, uncompressed in RGB
MAX_SCANS = 100  # passes over a progressive JPEG; encoders write about ten, each costs as much as the whole picture
FEW_SCANS = 16  # as many are always allowed
MAX_SCANNED = 1 << 30  # pixels times scans: seconds, not minutes
LARGER = "set PIL.Image.MAX_IMAGE_PIXELS (`tgdt index --max-pixels`) for larger ones that you trust"
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")  # of a segment: no stuffed byte, no restart, no TEM
_SIXTEEN_BIT = 257  # 65535 / 255
_PHOTOMETRIC_TAG, _YCBCR = 262, 6  # TIFF 6.0, section 21
_ORIENTATION_TAG, _SHORT = 0x0112, 3  # EXIF 2.3, section 4.6.4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NEXT_STEP = "Convert it with `PIL.Image.open(path).convert('RGB')` or pass a (height, width, 3) uint8 array."


def open_image(source: str | os.PathLike[str]) -> Image.Image:
    """Open a picture, first frame, fully decoded, in its own mode.

    Args:
        source: Path, `http(s)://` URL, or base64 text with or without a `data:image/...` prefix.

    Raises:
        ValueError: When nothing readable is found, or the file is damaged.
    """
    name = os.fspath(source)
    try:
        image = decode(_read(name), "the picture")
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise ValueError(
            f"Expected a readable picture at {name[:200]!r}, found {type(error).__name__}: {error}. Check that the "
            "file exists, is complete and has a format that Pillow reads."
        ) from error
    return image


def read_picture(source: Any, *, max_pixels: int | None = None, draft: int | None = None) -> Any:
    """Open a picture from a file, encoded bytes or an undecoded data-set row, and decode it fully.

    Args:
        source: Path, URL, bytes, `{"bytes": ..., "path": ...}`, or a picture that is decoded already (PIL, array,
            tensor), which is passed through.
        max_pixels: Largest width x height, checked before anything is decoded. By default
            `PIL.Image.MAX_IMAGE_PIXELS`, 89 million unless you set it. A URL gives at most 256 MiB in 30 s.
        draft: Pixels that either side of a JPEG must keep; it is decoded at a half, a quarter or an eighth where that
            leaves as many. None: at its full size.

    Returns:
        Decoded PIL picture in its own mode, or what was passed through.

    Raises:
        ValueError: When there is no picture, or it is empty, damaged, too large or of an unknown format.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise ValueError("there is no picture in this row")
    if not isinstance(source, str | os.PathLike | bytes | bytearray):
        return source
    name = "the picture" if isinstance(source, bytes | bytearray) else repr(os.fspath(source))
    try:
        data = _encoded(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {_reason(error)}") from error
    return _decode(data, name, max_pixels, draft)


def open_encoded(data: bytes, name: str, max_pixels: int | None = None) -> Image.Image:
    """Open an encoded picture, not yet decoded, unless decoding it would cost more than a picture may.

    Args:
        data: Content of a file in one of `FORMATS`.
        name: What to call it.
        max_pixels: See `check_pixels`.

    Raises:
        ValueError: When it is too large; anything else that Pillow raises when it is damaged.
    """
    image = Image.open(BytesIO(data), formats=known_formats())
    check_pixels(image, name, max_pixels)
    check_scans(data, name, image.width * image.height)
    if image.format == "TIFF":
        _read_plain_ycbcr(image)
    return image


def _read_plain_ycbcr(image: Any) -> None:
    """Have libtiff read an uncompressed YCbCr TIFF, whose pixels Pillow takes for four bytes of RGB."""
    if image.tag_v2.get(_PHOTOMETRIC_TAG) == _YCBCR and not image.use_load_libtiff and image.mode == "RGB":
        image.use_load_libtiff = True
        image.tile = [("libtiff", (0, 0, *image.size), 0, ("RGBX", "raw", False, image.tag_v2.offset))]


def decode(data: bytes, name: str, max_pixels: int | None = None, draft: int | None = None) -> Image.Image:
    """Decode a picture's first frame; arguments and errors as for `open_encoded`, `draft` as for `read_picture`."""
    image = open_encoded(data, name, max_pixels)
    if draft is not None:
        image.draft(None, (draft, draft))
    image.load()
    return image


@cache
def known_formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow was built with; HEIF where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # the extra `heif`
        pass
    else:
        register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def download(url: str, timeout: float = 30.0, max_bytes: int = MAX_BYTES) -> bytes:
    """Fetch what is at a URL.

    Args:
        url: `http(s)://`; redirects are followed.
        timeout: Seconds until the first bytes and between two of them, and until the last: a trickle ends as well.
        max_bytes: Most bytes that are taken.

    Raises:
        ValueError: When there is no answer, too late an answer, or more than `max_bytes`.
    """
    import httpx  # with its command line it takes a tenth of a second, and few pictures come from a URL

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


def _read(name: str) -> bytes:
    if name.startswith(("http://", "https://")):
        return download(name)
    if os.path.isfile(name):
        return read_regular_file(name)
    try:
        return base64.b64decode(name.split(",", 1)[1] if name.startswith("data:image/") else name, validate=True)
    except (binascii.Error, ValueError, IndexError) as error:
        raise FileNotFoundError("neither a file, a URL, nor base64 text") from error


def _encoded(source: str | os.PathLike[str] | bytes | bytearray) -> bytes:
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    return download(source) if isinstance(source, str) and "://" in source else read_regular_file(source)


def _decode(data: bytes, name: str, max_pixels: int | None, draft: int | None) -> Image.Image:
    if not data:
        raise ValueError(f"{name} has 0 bytes")
    try:
        return decode(data, name, max_pixels, draft)
    except ValueError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        raise ValueError(f"{name} is not a readable picture: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"expected one of the formats {', '.join(FORMATS)}"
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, twice the number that is set
        return f"{error} {LARGER}"
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


def rgb_picture(image: Any) -> Image.Image:
    """Return any picture as RGB: upright, in 8 bits, transparency on white. Whatever shows or embeds one, calls this.

    Args:
        image: Picture in any mode of Pillow, or an array or tensor as `eight_bit_array` takes it.

    Raises:
        ValueError: When it cannot become RGB.
    """
    if not isinstance(image, Image.Image):
        return _from_array(eight_bit_array(image.cpu() if hasattr(image, "cpu") else image, rescale=True))
    try:
        image = upright_picture(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except ValueError:
        raise
    except Exception as error:  # Pillow raises nearly every type on odd pictures
        raise ValueError(f"the picture cannot become RGB: {type(error).__name__}: {error}") from error


def upright_picture(image: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation and bring 16-bit, 32-bit and float modes to 8 bits.

    Other modes (palette, gray, alpha, CMYK) stay, so that the conversion to RGB still knows them.

    Args:
        image: Picture in any mode of Pillow.

    Raises:
        ValueError: When the mode cannot become RGB.
    """
    image = _turned(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        return _with_transparency(Image.fromarray(_from_sixteen_bit(values)), values, image.info)
    if image.mode == "I":
        # Pillow gives this mode both to 8-bit and to 16-bit data.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            found = f"{values.min()}..{values.max()}"
            raise ValueError(f"Expected whole-number pixels in 0..65535, found {found}. Scale them to that range.")
        gray = Image.fromarray(_from_sixteen_bit(values) if values.max() > 255 else values.astype(np.uint8))
        return _with_transparency(gray, values, image.info)
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode in ("RGBa", "La"):
        return image.convert(image.mode.upper())
    if image.mode == "LAB":  # of TIFF; Pillow's `convert` does not know it
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast(Image.Image, ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
    return image


def _with_transparency(gray: Image.Image, values: np.ndarray, info: Mapping[Any, Any]) -> Image.Image:
    """Give a gray picture the alpha of the one value that its file calls transparent, where it names one (PNG)."""
    clear = info.get("transparency")
    if not isinstance(clear, int):
        return gray
    return Image.merge("LA", (gray, Image.fromarray((values != clear).astype(np.uint8) * 255)))


def _from_array(values: Any) -> Image.Image:
    array = np.asarray(values)
    if array.ndim == 3 and channels_first(array):
        array = array.transpose(1, 2, 0)
    return rgb_picture(Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) that an opened picture has once it is upright; nothing is decoded."""
    if _orientation(image) not in (5, 6, 7, 8):
        return image.size
    width, height = getattr(image, "_tile_size", image.size)  # of a TIFF; its `size` is turned already
    return height, width


def _turned(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; the EXIF block, which may be damaged, is dropped and not written anew."""
    method = _TURNS.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = {key: value for key, value in image.info.items() if not _tells_orientation(key)}
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises nearly every type on damaged blocks, whose first entries may be sound
        value = _orientation_in(image.info.get("exif", b""))
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 1


def _orientation_in(block: bytes) -> int:
    """Read the orientation from the first directory of an EXIF block, entry by entry (TIFF 6.0, section 2)."""
    data = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    entries = data[start + 2 :]
    for position in range(0, len(entries) - 11, 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", entries, position)
        if tag == _ORIENTATION_TAG:
            return int(value) if kind == _SHORT else 1
    return 1


def _tells_orientation(key: Any) -> bool:
    return str(key).lower() in ("exif", "xmp", "xml:com.adobe.xmp", "raw profile type exif")


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
    if hasattr(array, "cpu"):
        import torch  # the service's decoding processes do without

        if array.dtype == torch.uint8:
            return array
        values = array.detach().to("cpu")
        values = values.float() if values.is_floating_point() else values
        return torch.from_numpy(_to_eight_bit(values.numpy(), rescale)).to(array.device)
    return _to_eight_bit(array, rescale)


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
    return np.rint(values / _SIXTEEN_BIT).astype(np.uint8)


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"Expected float pixels in [0, 1] or [0, 255], found {low:.4g}..{high:.4g}. For pixels that are already "
            "normalised, pass do_resize=False, do_rescale=False and do_normalize=False."
        )
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


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
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size} bytes, more than the {MAX_BYTES} allowed")
        with open(handle, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    finally:
        os.close(handle)


def _count_scans(data: bytes, most: int) -> int:
    """Count the scans of the first picture in a JPEG, as far as one more than allowed."""
    position, scans = 2, 0
    while scans <= most and (match := _MARKER.search(data, position)):
        marker, position = match.group(1), match.end()
        if marker == b"\xd9":
            break
        scans += marker == b"\xda"
        position += int.from_bytes(data[position : position + 2], "big")  # the segment after the marker
    return scans
