# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Find pictures, captions and ids among the columns of any table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

# Names seen in public caption sets, best first. Comparison ignores case and separators.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "images", "img", "picture", "photo", "image_path", "img_path", "image_file", "image_name",
        "file_name", "filename", "filepath", "file_path", "path", "jpg", "jpeg", "png", "webp",
    ),
    "region_features": ("region_features", "features", "feats", "feat"),
    "region_boxes": ("region_boxes", "boxes", "bboxes"),
    "captions": (
        "captions", "caption", "texts", "text", "sentences", "sentence", "comment", "caption_text", "description",
        "alt_text", "txt",
    ),
    "negative_captions": ("negative_captions", "negative_caption"),
    "negative_images": ("negative_images", "negative_image"),
    "negative_image_ids": ("negative_image_ids", "negative_image_id"),
    "image_id": ("image_id", "imgid", "img_id", "imageid", "cocoid", "photo_id", "id", "key", "__key__"),
}  # fmt: skip
_ALIKE = 2 / 3  # share of letters in common from which a word may be a slip for another
_NUMBERED = re.compile(r"^(captions?|texts?|sentences?|comments?)[ _]?\d+$", re.IGNORECASE)


def find_columns(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Map the canonical columns to those of a table.

    Args:
        names: Columns of the table.
        chosen: Canonical name to column, where the automatic choice is wrong.

    Returns:
        Canonical name to column; optional columns that are absent are left out.

    Raises:
        ValueError: When there is no picture or region column, or no caption column. The message states what was
            expected, what was found and the nearest match.

    Example:
        >>> find_columns(["file_name", "sentence", "cocoid"])
        {'image': 'file_name', 'captions': 'sentence', 'image_id': 'cocoid'}
    """
    column_of = _check_chosen(names, chosen or {})
    by_key = {_key(name): name for name in reversed(names)}
    for canonical, aliases in ALIASES.items():
        match = next((by_key[_key(alias)] for alias in aliases if _key(alias) in by_key), None)
        if canonical not in column_of and match is not None and match not in column_of.values():
            column_of[canonical] = match
    if "image" not in column_of and "region_features" not in column_of:
        raise ValueError(_missing("a picture column", ("image", "region_features"), names))
    if "captions" not in column_of and not numbered_columns(names):
        raise ValueError(_missing("a caption column", ("captions",), names))
    return column_of


def numbered_columns(names: Iterable[str]) -> list[str]:
    """Return columns such as `caption_0`, `caption_1`, in numeric order.

    Args:
        names: Columns of the table.
    """
    matches = [name for name in names if _NUMBERED.match(name)]
    return sorted(matches, key=lambda name: int(re.sub(r"\D", "", name)))


def may_hold_text(name: str) -> bool:
    """Tell whether a column may hold running text; those of pictures, ids and splits do not.

    Example:
        >>> may_hold_text("Caption"), may_hold_text("file_name"), may_hold_text("split")
        (True, False, False)
    """
    return _key(name) not in {"split", *(_key(alias) for what in ("image", "image_id") for alias in ALIASES[what])}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known word, or an empty string.

    Args:
        word: What was asked for.
        known: What exists; the first one that begins with the word goes before what is spelled alike.

    Example:
        >>> nearest("phtos", ["data", "photos"]), nearest("cats", ["data", "photos"])
        (" Did you mean 'photos'?", '')
        >>> nearest("val", ["train", "validation"])
        " Did you mean 'validation'?"
    """
    names = list(known)
    longer = [name for name in names if len(word) > 2 and name.startswith(word)]
    close = longer or difflib.get_close_matches(word, names, n=1, cutoff=_ALIKE)
    return f" Did you mean {close[0]!r}?" if close else ""


def _key(name: str) -> str:
    return re.sub(r"[\s_\-.]", "", name.lower()) or name


def _check_chosen(names: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    for canonical, name in chosen.items():
        if canonical not in ALIASES:
            raise ValueError(
                f"columns= maps the names {sorted(ALIASES)} to yours, found the key {canonical!r}."
                f"{nearest(canonical, ALIASES)}"
            )
        if name not in names:
            raise ValueError(
                f"columns= says that {canonical!r} is called {name!r}. Found the columns {list(names)}."
                f"{nearest(name, names)}"
            )
    return dict(chosen)


def _missing(what: str, canonical: Sequence[str], names: Sequence[str]) -> str:
    expected = [alias for name in canonical for alias in ALIASES[name]]
    scored = [(difflib.SequenceMatcher(None, _key(n), _key(a)).ratio(), n) for n in names for a in expected]
    score, name = max(scored, default=(0.0, ""))
    hint = f" Did you mean {name!r}?" if score >= _ALIKE else ""
    return (
        f"The data set needs {what}. Expected one of {expected}, found {list(names)}.{hint} "
        f"Rename the column, or pass columns={{{canonical[0]!r}: 'your column'}}."
    )
