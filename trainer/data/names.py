# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Which file a table means: names of another Unicode form, folder, slash or suffix, or as a URL quotes them."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from modeling_tgdt.retriever.picture_sources import looks_like_picture

from .columns import nearest

logger = logging.getLogger(__name__)

# Where the benchmarks keep their pictures, below the folder of the annotations.
_FOLDERS = ("", "images", "Images", "Flicker8k_Dataset", "flickr30k-images", "train2014", "val2014")


class NameFinder:
    """Find the known name that another spelling means, where only one can be meant.

    Args:
        known: Names with `/`.

    Example:
        >>> finder = NameFinder(["beach/IMG_1.JPG", "wood/IMG_2.jpg"])
        >>> finder.find("photos\\\\beach\\\\img_1.jpg"), finder.find("IMG_2"), finder.find("town/IMG_2.jpg")
        ('beach/IMG_1.JPG', 'wood/IMG_2.jpg', None)
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.known = set(known)
        self._by_stem: dict[str, list[tuple[list[str], str]]] = defaultdict(list)
        for name in sorted(self.known):
            parts = _parts(name)
            self._by_stem[_stem(parts[-1])].append((parts, name))

    def find(self, name: str) -> str | None:
        """Return the known name, or None when there is none or more than one fits equally well."""
        if name in self.known:
            return name
        return self._likest(name) or (self._likest(unquote(name)) if "%" in name else None)

    def _likest(self, name: str) -> str | None:
        parts = _parts(name)
        if not parts:
            return None
        fits = [(_likeness(parts, candidate), known) for candidate, known in self._by_stem.get(_stem(parts[-1]), ())]
        best = max((fit for fit, _ in fits), default=(0, False))
        best_fits = [known for fit, known in fits if fit == best and fit[0]]
        return best_fits[0] if len(best_fits) == 1 else None


class PictureFinder:
    """Find the pictures that a table names, below a folder that is walked only when a name does not fit as it is.

    Args:
        names: Names of the table; a few of them choose the usual sub-folder of a benchmark.
        root: Folder that names are relative to; the working directory by default.
    """

    def __init__(self, names: Sequence[str | None], root: Path | None) -> None:
        self.root = root or Path()
        self.folder = self._usual([name for name in names[:20] if name])
        self._finder: NameFinder | None = None

    def path(self, name: str) -> str:
        """Return the path of a picture; where none is found, the one that the name says."""
        plain = str(self.folder / name)
        if "://" in name or os.path.isfile(plain):
            return name if "://" in name else plain
        if self._finder is None:
            self._finder = NameFinder(_pictures_below(self.root))
        known = self._finder.find(name)
        return plain if known is None else str(self.root / known)

    def paths(self, names: Sequence[str | None], source: str, *, required: bool) -> list[str | None]:
        """Return the path of every name.

        Args:
            names: As in the table.
            source: What the table is called in messages.
            required: Whether most of them must exist.

        Raises:
            ValueError: When they are required and more than half of them do not exist.
        """
        paths = [None if name is None else self.path(name) for name in names]
        self._report(names, paths, source)
        if required:
            self._check(names, paths, source)
        return paths

    def _check(self, names: Sequence[str | None], paths: Sequence[str | None], source: str) -> None:
        local = [(name, path) for name, path in zip(names, paths, strict=True) if path and "://" not in path]
        missing = [name for name, path in local if not os.path.isfile(path)]
        if 2 * len(missing) > len(local):
            there = sorted(self._finder.known) if self._finder else []
            raise ValueError(
                f"{len(missing)} of {len(local)} pictures of {source} are not there, such as {missing[0]!r}; looked "
                f"in {self.root} and below, which holds {len(there)} pictures, such as {there[:2]}."
                f"{nearest(str(missing[0]), there[:5000])} Correct the names, or pass image_root=the folder that they "
                "are relative to."
            )

    def _report(self, names: Sequence[str | None], paths: Sequence[str | None], source: str) -> None:
        moved = [
            (name, path)
            for name, path in zip(names, paths, strict=True)
            if name and path and "://" not in name and path != str(self.folder / name)
        ]
        if moved:
            logger.warning(
                "%d picture names of %s were found under another spelling, such as %r as %s",
                len(moved),
                source,
                *moved[0],
            )

    def _usual(self, sample: Sequence[str]) -> Path:
        hits = {folder: sum((self.root / folder / name).is_file() for name in sample) for folder in _FOLDERS}
        best = max(hits, key=lambda folder: hits[folder])
        return self.root / best if sample and hits[best] else self.root


def _pictures_below(root: Path) -> Iterable[str]:
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and (looks_like_picture(name) or "." not in name):
                yield Path(parent, name).relative_to(root).as_posix()


def _parts(name: str) -> list[str]:
    plain = unicodedata.normalize("NFC", name.strip().replace("\\", "/")).casefold()
    return [part for part in plain.split("/") if part not in ("", ".")]


def _stem(name: str) -> str:
    return re.sub(r"\.\w+$", "", name) if looks_like_picture(name) else name


def _likeness(asked: list[str], known: list[str]) -> tuple[int, bool]:
    """Return (trailing parts in common, same suffix); 0 parts unless one name is the tail of the other."""
    folders, known_folders = asked[:-1], known[:-1]
    common = min(len(folders), len(known_folders))
    if common and folders[-common:] != known_folders[-common:]:
        return 0, False
    return common + 1, asked[-1] == known[-1]


__all__ = ["NameFinder", "PictureFinder"]
