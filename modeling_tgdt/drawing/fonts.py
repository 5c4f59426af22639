# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A font that has the letters of a label, where one is installed."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from PIL import ImageFont

# Found by name in the system's folders of fonts: Linux, then macOS and Windows.
_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "LiberationSans-Regular.ttf"),
    *("Arial Unicode.ttf", "Hiragino Sans GB.ttc", "arial.ttf", "msyh.ttc", "msgothic.ttc"),
)
_NO_LETTER = "\U0010ffff"  # every font draws its box for it


def readable(text: str, size: int) -> tuple[str, Any]:
    """Return a text and a font that can draw it; letters that no font has lose their accents or become `?`.

    Args:
        text: The label.
        size: Height in pixels.

    Example:
        >>> readable("a cat", 15)[0]
        'a cat'
    """
    fonts = _fonts(size)
    letters = set(text)
    font = max(fonts, key=lambda font: sum(has_letter(font, letter) for letter in letters))  # the first of equals
    return "".join(_drawn(letter, font) for letter in text), font


def has_letter(font: Any, letter: str) -> bool:
    """Tell whether a font draws a letter as something else than the box of a missing one."""
    return (
        letter.isspace()
        or (letter.isascii() and letter.isprintable())
        or _mask(font, letter) != _mask(font, _NO_LETTER)
    )


@cache
def _fonts(size: int) -> list[Any]:
    fonts = [ImageFont.load_default(size)]
    for name in _FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # not installed, or Pillow without FreeType
            continue
    return fonts


def _mask(font: Any, letter: str) -> bytes:
    try:
        mask = font.getmask(letter)
    except (UnicodeEncodeError, OSError, ValueError):  # Pillow's bitmap font knows Latin letters only
        return b""
    return bytes(mask) + str(mask.size).encode()


def _drawn(letter: str, font: Any) -> str:
    if has_letter(font, letter):
        return letter
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or ("" if unicodedata.combining(letter) else "?")


__all__ = ["has_letter", "readable"]
