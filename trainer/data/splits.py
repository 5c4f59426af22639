# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which split a file's name tells, and the error for data that tell none."""

import hashlib
import logging
import re
from collections.abc import Iterable

logger = logging.getLogger(__name__)

_VALIDATION = {"validation", "val", "dev"}
_SPLITS = {"train", "test", *_VALIDATION}


class NoSplitError(ValueError):
    """A split was asked for, and nothing in the data says which photos belong to it."""

    def __init__(self, source: str, split: str) -> None:
        super().__init__(
            f"{source} has no split {split!r}: expected a column 'split' or a split in the file's name, found none. "
            "Leave the split out to take every photo, add a column 'split', or write a file per split, such as "
            "captions_train.csv and captions_validation.csv."
        )


def say_all_splits(source: str, names: Iterable[object]) -> None:
    """Warn that photos of several splits are taken together, training and test photos among them."""
    splits = sorted({str(name) for name in names})
    if len(splits) > 1:
        logger.warning("%s: photos of all splits together (%s); ask for one with split=.", source, ", ".join(splits))


def same_splits(split: str) -> set[str]:
    """Return all names of a split.

    Example:
        >>> sorted(same_splits("val"))
        ['dev', 'val', 'validation']
    """
    return _VALIDATION if split in _VALIDATION else {split}


def hashed_order(ids: Iterable[str]) -> list[str]:
    """Return each id once, in the order of their hashes: a draw that no seed and no order of the data changes.

    Args:
        ids: Ids of photos, repeated or not.
    """
    return sorted(set(ids), key=lambda name: hashlib.sha256(name.encode()).digest())


def has_word(stem: str, word: str) -> bool:
    """Tell whether a name holds a word, which no letter may touch.

    Example:
        >>> has_word("captions_val2017", "val"), has_word("retrieval", "val")
        (True, False)
    """
    return re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", stem, re.IGNORECASE) is not None


def word_for(split: str | None, stems: Iterable[str]) -> str | None:
    """Return the name of a split that some file's name holds, as it is asked for if possible."""
    stems = list(stems)
    names = [split, *sorted(same_splits(split) - {split})] if split else []
    return next((name for name in names if any(has_word(stem, name) for stem in stems)), None)


def is_of_split(stem: str, split: str) -> bool:
    """Tell whether a file's name says this split and no other one."""
    wanted = same_splits(split)
    others = {name for name in _SPLITS - wanted if name not in split}
    return any(has_word(stem, name) for name in wanted) and not any(has_word(stem, name) for name in others)


__all__ = ["NoSplitError", "has_word", "is_of_split", "same_splits", "say_all_splits", "word_for"]
