# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The manifest of a gallery: its settings and its committed files, checked as a stranger's."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..kernels.quantize import TOKEN_DTYPES
from .parts import PART
from .segment import RESTORE, RowLayout, SegmentRecord
from .storage import read_json, replace_json

# The later ones where items carry a hubness, and where global embeddings are cut: an older reader must refuse them.
FORMAT_VERSION, HUBNESS_VERSION, GLOBAL_DIM_VERSION = 1, 2, 3
MANIFEST = "manifest.json"
INDEX_FOLDER = "index"  # of a directory that holds a model or names one beside its gallery
QDRANT_FOLDERS = {"edge": "qdrant-edge", "local": "qdrant"}  # of the embedded kinds of that engine
_LARGEST = 1 << 48  # bytes or rows; beyond it sizes would overflow
_SEGMENT = re.compile(r"segment-[0-9a-f]{12}")
_DELETED = re.compile(r"deleted-[0-9a-f]{12}\.i64")
_ENGINE = re.compile(r"engine-[0-9a-f]{12}\.bin")
_PART = re.compile(PART)
CHOICES = {  # of settings, for `TGDTIndex.create` and for what a manifest may say
    "token_dtype": TOKEN_DTYPES,
    "engine": ("exact", "faiss", "qdrant"),
    "kind": ("image", "text"),
    "reduction": ("mean", "sum"),
}


def gallery_folder(path: Path) -> Path:
    """Return the directory of a gallery, which may lie in the `index/` of the one that is named."""
    inner = path / INDEX_FOLDER
    return inner if not (path / MANIFEST).exists() and (inner / MANIFEST).exists() else path


@dataclass(frozen=True)
class Manifest:
    """Committed state of a gallery."""

    settings: dict[str, Any]
    commit: int = 0
    segments: tuple[SegmentRecord, ...] = ()
    deleted: dict[str, list[int]] = field(default_factory=dict)  # at most one file: name -> [bytes, crc]
    engine_files: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Read and check `manifest.json`."""
        path = root / MANIFEST
        if not path.exists():
            raise FileNotFoundError(f"No gallery at {str(root)!r}: {MANIFEST} is missing. Make one with create().")
        content = read_json(path)
        version = content.pop("format_version", None)
        if version not in (FORMAT_VERSION, HUBNESS_VERSION, GLOBAL_DIM_VERSION):
            raise ValueError(
                f"{str(root)!r} has format version {version!r}, this tgdt reads up to version {GLOBAL_DIM_VERSION}. "
                "Install the tgdt release that wrote it, or build the gallery again."
            )
        try:
            content["segments"] = tuple(SegmentRecord(**record) for record in content["segments"])
            manifest = cls(**content)
            manifest.check()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is not a manifest that tgdt wrote: {error}. {RESTORE}") from error
        return manifest

    def check(self) -> None:
        """Raise for a name that is none of a gallery's, a length that no rows account for, or other settings.

        A gallery may come from anybody, and a checksum does not tell who wrote it.
        """
        _check_settings(self.settings)
        _check_count(self.commit)
        names = [record.name for record in self.segments]
        if len(set(names)) < len(names):
            raise ValueError("a segment is listed twice")
        for pattern, file_names in ((_SEGMENT, names), (_DELETED, self.deleted), (_ENGINE, self.engine_files)):
            for name in file_names:
                if not pattern.fullmatch(name):
                    raise ValueError(f"{name!r} is not a file of a gallery")
        for files in (self.deleted, self.engine_files):
            if len(files) > 1:
                raise ValueError(f"{len(files)} files where one is")
            _check_lengths(files)
        for record in self.segments:
            _check_record(record, self.layout)

    @property
    def layout(self) -> RowLayout:
        """What the rows of its files look like."""
        return RowLayout.of(self.settings)

    def write(self, root: Path) -> None:
        """Commit: replace `manifest.json`; ValueError for what `read` would refuse."""
        self.check()
        version = HUBNESS_VERSION if self.settings.get("hubness") else FORMAT_VERSION
        version = GLOBAL_DIM_VERSION if "global_dim" in self.settings else version
        replace_json(root / MANIFEST, {"format_version": version, **asdict(self)})

    def file_names(self) -> set[str]:
        """Names in the gallery's directory that belong to this state."""
        return {record.name for record in self.segments} | set(self.deleted) | set(self.engine_files)

    def paths(self) -> list[str]:
        """Every file of this state below the gallery's directory, the manifest first."""
        parts = [f"{record.name}/{name}" for record in self.segments for name in record.files]
        return [MANIFEST, *parts, *self.deleted, *self.engine_files]


def _check_record(record: SegmentRecord, layout: RowLayout) -> None:
    for count in (record.rows, record.tokens):
        _check_count(count)
    _check_numbers({"max_norm": record.max_norm, "max_residual": record.max_residual})
    _check_lengths(record.files)
    lengths = {name: length for name, (length, _) in record.files.items()}
    expected = layout.file_sizes(record.rows, record.tokens)
    if not (record.rows and lengths.pop("rows.arrow", 0)) or lengths != expected:
        raise ValueError(f"the files of {record.name} are not those of {record.rows} rows and {record.tokens} tokens")


def _check_lengths(files: dict[str, list[int]]) -> None:
    for length, crc in files.values():
        _check_count(length)
        _check_count(crc)


def _check_count(number: Any) -> None:
    if type(number) is not int or not 0 <= number < _LARGEST:
        raise ValueError(f"{number!r} is not a count")


def _check_settings(settings: dict[str, Any]) -> None:
    for key in ("dim", "pool_factor", "segment_rows"):
        if type(settings[key]) is not int or not 1 <= settings[key] < _LARGEST:
            raise ValueError(f"{key} is {settings[key]!r}, expected an integer from 1")
    if type(settings.get("global_dim", 1)) is not int or not 1 <= settings.get("global_dim", 1) <= settings["dim"]:
        raise ValueError(f"global_dim is {settings['global_dim']!r}, expected an integer from 1 to dim")
    for key, known in CHOICES.items():
        if settings[key] not in known:
            raise ValueError(f"{key} is {settings[key]!r}, expected one of {list(known)}")
    if type(settings.get("hubness", False)) is not bool:
        raise ValueError(f"hubness is {settings['hubness']!r}, expected true or false")
    _check_numbers({key: settings[key] for key in ("global_weight", "local_weight", "scale")})
    for key in ("model_id", "model_revision"):
        if not isinstance(settings[key], str | None):
            raise ValueError(f"{key} is {settings[key]!r}, expected a string or null")
    if not isinstance(settings["engine_options"], dict):
        raise ValueError(f"engine_options is {settings['engine_options']!r}, expected an object")


def _check_numbers(numbers: dict[str, Any]) -> None:
    for key, value in numbers.items():
        if type(value) not in (int, float) or not abs(value) < _LARGEST:
            raise ValueError(f"{key} is {value!r}, expected a number")


def is_own_name(name: str) -> bool:
    """Tell whether a name in a gallery's directory is of its own making, besides manifest and lock."""
    return any(pattern.fullmatch(name) for pattern in (_SEGMENT, _DELETED, _ENGINE, _PART))
