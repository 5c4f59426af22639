# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Texts of strangers, such as ids, metadata and records of runs, fit to be shown: in a terminal, in Markdown."""

from __future__ import annotations

import json
import re
from typing import Any

_ACTIVE = re.compile(r"([\\`*\[\]<>|~#])")


def printable(text: str) -> str:
    r"""Write out, as JSON does, what a terminal would obey and what is not seen.

    Args:
        text: Any text, JSON among others.

    Example:
        >>> print(printable("a\x1b[2J b"))
        a\u001b[2J b
    """
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def markdown(text: Any) -> str:
    r"""Return a text, in one line, as Markdown that shows it as it is: no picture, link, table cell or HTML.

    Args:
        text: Text, number or list of them.

    Example:
        >>> print(markdown("![](x) <b>"))
        !\[\](x) \<b\>
    """
    text = ", ".join(map(str, text)) if isinstance(text, list) else str(text)
    return _ACTIVE.sub(r"\\\1", printable(" ".join(text.split())))


def code(text: Any) -> str:
    """Return a text, in one line, that stays inside backticks."""
    return printable(" ".join(str(text).replace("`", "'").split()))


__all__ = ["code", "markdown", "printable"]
