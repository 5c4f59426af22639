# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which thing of a drawn scene each word of a caption names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .captions import NOUNS, SIZES
from .layout import COLOURS, RADIUS, SHAPES

_KINDS = {"size": tuple(RADIUS), "colour": COLOURS, "shape": SHAPES}
_SYNONYMS = {word: name for names in (NOUNS, SIZES) for name, words in names.items() for word in words}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}


def scene_phrases(caption: str, regions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the words of a caption that name things: size, colour and shape words.

    Words that follow each other name one thing together: "a small red star" is the region with all three in its label.

    Args:
        caption: Caption of the scene.
        regions: Its things, with `label` such as "small red star".

    Returns:
        Per word `start` and `end` in characters, `kind` (`"size"`, `"colour"` or `"shape"`), and `things`, the numbers
        of the regions that its phrase fits; words of phrases that fit none are left out.

    Example:
        >>> scene_phrases("A red ball", [{"label": "small red circle"}])[1]
        {'start': 6, 'end': 10, 'kind': 'shape', 'things': [0]}
    """
    phrases: list[list[tuple[re.Match[str], str]]] = [[]]
    for match in re.finditer(r"\w+", caption.lower()):
        word = _SYNONYMS.get(match[0], match[0])
        if word in _KIND_OF:
            phrases[-1].append((match, word))
        elif phrases[-1]:
            phrases.append([])
    named = []
    for phrase in phrases:
        names = {word for _, word in phrase}
        things = [number for number, region in enumerate(regions) if names <= set(region["label"].split())]
        for match, word in phrase if things else ():
            named.append({"start": match.start(), "end": match.end(), "kind": _KIND_OF[word], "things": things})
    return named
