# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Stores of precomputed region features, read photo by photo: npz + npy pairs, `precomp` npy, TSV, HDF5."""

from __future__ import annotations

import base64
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from modeling_tgdt.processing_tgdt import BOX_SLACK

_FEATURE_FOLDERS, _BOX_FOLDERS = ("bu_att", "features", "."), ("bu_box", "boxes", ".")


class Regions(NamedTuple):
    """Regions of one photo.

    Attributes:
        features: (R, F) float.
        boxes: (R, 4) xyxy, in pixels or already in [0, 1]; None when the store has no boxes.
        image_size: (height, width) in pixels, when the store knows it.
    """

    features: NDArray[Any]
    boxes: NDArray[Any] | None = None
    image_size: tuple[int, int] | None = None


class RegionStore(Protocol):
    """What a store must offer; it is pickled to data-loader workers, so files are opened on first use."""

    has_boxes: bool

    def __contains__(self, key: str) -> bool: ...

    def read(self, key: str) -> Regions: ...


def open_region_store(path: str | Path) -> RegionStore:
    """Open region features by what lies at the path.

    Args:
        path: Folder with `bu_att/<id>.npz` and `bu_box/<id>.npy` (or all files in one folder), a bottom-up-attention
            `.tsv`, an `.h5`/`.hdf5` file, or a `.npy` array (N, R, F) whose row number is the id.

    Raises:
        ValueError: When the path is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return NpzStore(path)
    stores: dict[str, type] = {".npy": ArrayStore, ".tsv": TsvStore, ".h5": Hdf5Store, ".hdf5": Hdf5Store}
    if path.suffix not in stores or not path.is_file():
        raise ValueError(
            f"Expected region features: a folder with bu_att/<id>.npz and bu_box/<id>.npy, or a file .npy, .tsv, .h5. "
            f"Found {str(path)!r}{'' if path.exists() else ', which does not exist'}."
        )
    store: RegionStore = stores[path.suffix](path)
    return store


def normalise_boxes(boxes: NDArray[Any], image_size: tuple[int, int] | None, key: str = "") -> NDArray[np.float32]:
    """Divide pixel boxes by the photo's size, in double precision as the reference does.

    Args:
        boxes: (R, 4) xyxy in pixels, or already in [0, 1].
        image_size: (height, width) in pixels of the upright photo; needed for pixel boxes only.
        key: The photo's, for messages.

    Returns:
        (R, 4) float32 in [0, 1].

    Raises:
        ValueError: When boxes are in pixels and the size is unknown, or lie outside the photo.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.max(initial=0) <= 1.0 + 1e-6:
        return boxes.clip(0, 1).astype(np.float32)
    if image_size is None:
        raise ValueError(
            f"Region boxes are in pixels (largest value {boxes.max():.1f}) and the photo's size is not known. "
            "Pass image_root, or add image_w and image_h to the feature file or their like to the annotations."
        )
    height, width = image_size
    shares = boxes / np.array([width, height, width, height], dtype=np.float64)
    if not ((shares >= -BOX_SLACK) & (shares <= 1 + BOX_SLACK)).all():
        raise ValueError(
            f"Boxes of photo {key!r} reach from {boxes.min():.1f} to {boxes[:, ::2].max():.1f} x "
            f"{boxes[:, 1::2].max():.1f} pixels, the photo is {width} x {height}. They must be pixels of the same "
            "photo, upright as its EXIF says."
        )
    return shares.clip(0, 1).astype(np.float32)


def read_arrays(path: Path, mmap_mode: Literal["r"] | None = None) -> Any:
    """Read a `.npy` array, or a `.npz` archive as a dict of arrays; nothing in the file is run.

    Raises:
        ValueError: When the file is damaged, or holds Python objects.
    """
    try:
        if mmap_mode:
            return np.lib.format.open_memmap(path, mode=mmap_mode)
        with open(path, "rb") as file:
            content = np.load(file)
            return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content
    except (ValueError, EOFError, KeyError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is not a readable NumPy file: {error}. Write it again.") from error


@dataclass
class NpzStore:
    """One `<id>.npz` (key `feat`, `features` or `x`) per photo, with boxes inside or in `<id>.npy`."""

    root: Path
    has_boxes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.feature_folder = self._folder(_FEATURE_FOLDERS, "*.npz")
        if self.feature_folder is None:
            raise ValueError(f"No .npz file in {self.root}, {self.root / 'bu_att'} or {self.root / 'features'}.")
        self.box_folder = self._folder(_BOX_FOLDERS, "*.npy")
        first = next(self.feature_folder.glob("*.npz"))
        self.has_boxes = self.box_folder is not None or _pick(read_arrays(first), "bbox", "boxes") is not None

    def _folder(self, names: Sequence[str], pattern: str) -> Path | None:
        return next((self.root / name for name in names if next((self.root / name).glob(pattern), None)), None)

    def __contains__(self, key: str) -> bool:
        return self.feature_folder is not None and (self.feature_folder / f"{key}.npz").is_file()

    def read(self, key: str) -> Regions:
        """Read one photo.

        Args:
            key: File name without suffix.

        Raises:
            ValueError: When the counts of features and boxes differ, or no known key is in the file.
        """
        content = read_arrays(Path(f"{self.feature_folder}/{key}.npz"))
        features = _pick(content, "feat", "features", "x")
        if features is None:
            raise ValueError(f"{key}.npz should hold 'feat' (R, F), found the keys {sorted(content)}.")
        boxes = _pick(content, "bbox", "boxes")
        if boxes is None and self.box_folder is not None:
            boxes = read_arrays(self.box_folder / f"{key}.npy")
        return _checked(key, features, boxes, _size_in(content))


@dataclass
class ArrayStore:
    """One memory-mapped array (N, R, F); the key is the row number."""

    path: Path
    has_boxes: bool = False

    def __post_init__(self) -> None:
        array = read_arrays(self.path, "r")
        if np.ndim(array) != 3:
            raise ValueError(f"{str(self.path)!r} should hold an array (N, R, F), found shape {np.shape(array)}.")
        self.rows = len(array)

    def __contains__(self, key: str) -> bool:
        return key.isascii() and key.isdigit() and int(key) < self.rows

    def read(self, key: str) -> Regions:
        """Read one photo.

        Args:
            key: Row number.
        """
        return Regions(np.array(read_arrays(self.path, "r")[int(key)]))


@dataclass
class TsvStore:
    """Bottom-up-attention TSV: image_id, image_w, image_h, num_boxes, boxes, features, the last two base64 float32."""

    path: Path
    has_boxes: bool = True

    def __post_init__(self) -> None:
        self.offsets: dict[str, int] = {}
        with self.path.open("rb") as file:
            while line := file.readline():
                self.offsets[line.split(b"\t", 1)[0].decode()] = file.tell() - len(line)

    def __contains__(self, key: str) -> bool:
        return key in self.offsets

    def read(self, key: str) -> Regions:
        """Read one photo.

        Args:
            key: The photo's image_id.

        Raises:
            ValueError: When the row does not have six fields.
        """
        with self.path.open("rb") as file:
            file.seek(self.offsets[key])
            fields = file.readline().rstrip(b"\r\n").split(b"\t")
        if len(fields) != 6:
            raise ValueError(f"Row {key!r} of {self.path} should have 6 tab-separated fields, found {len(fields)}.")
        count = int(fields[3])
        boxes, features = (
            np.frombuffer(base64.b64decode(value), np.float32).reshape(count, -1) for value in fields[4:]
        )
        return _checked(key, features, boxes, (int(fields[2]), int(fields[1])))


@dataclass
class Hdf5Store:
    """HDF5 with a group per photo (`<id>/features`, `<id>/boxes`) or `image_features` (N, R, F) and `image_ids`."""

    path: Path
    has_boxes: bool = field(init=False)

    def __post_init__(self) -> None:
        self._file: Any = None
        names = set(self.file)
        self.rows: dict[str, int] | None = None
        if "image_features" in names:
            self.rows = {_text(key): row for row, key in enumerate(self.file["image_ids"][:])}
            self.has_boxes = "image_bb" in names or "boxes" in names
        else:
            self.has_boxes = bool(names) and "boxes" in self.file[next(iter(names))]
        self._close()

    @property
    def file(self) -> Any:
        """The open file; opened once per process."""
        if self._file is None:
            try:
                import h5py
            except ImportError as error:
                raise ImportError("Reading HDF5 features needs h5py: pip install h5py.") from error
            self._file = h5py.File(self.path, "r")
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __contains__(self, key: str) -> bool:
        return key in self.file if self.rows is None else key in self.rows

    def read(self, key: str) -> Regions:
        """Read one photo.

        Args:
            key: Group name, or an entry of `image_ids`.
        """
        if self.rows is None:
            group = self.file[key]
            size = _size_in(dict(group.attrs))
            return _checked(key, group["features"][:], group["boxes"][:] if "boxes" in group else None, size)
        row, box_name = self.rows[key], "image_bb" if "image_bb" in self.file else "boxes"
        boxes = self.file[box_name][row] if self.has_boxes else None
        return _checked(key, self.file["image_features"][row], boxes, None)


@dataclass
class RegionReader:
    """Replace store keys by features and boxes when rows are read; the transform of a `datasets.Dataset`.

    Attributes:
        store: Where the regions are.
        sizes: Key to (height, width) in pixels, for stores that do not know it.
    """

    store: RegionStore
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Read the regions of a batch of rows.

        Args:
            batch: Columns; `region_features` and `region_boxes` hold store keys.

        Returns:
            The columns, with (R, F) float32 features and (R, 4) boxes in [0, 1].
        """
        keys = batch.get("region_features", batch.get("region_boxes"))
        if keys is None:
            return batch
        regions = [self.store.read(key) for key in keys]
        if "region_features" in batch:
            batch["region_features"] = [np.asarray(photo.features) for photo in regions]
        if "region_boxes" in batch:
            batch["region_boxes"] = [
                normalise_boxes(photo.boxes, photo.image_size or self.sizes.get(key), key)
                for key, photo in zip(keys, regions, strict=True)
                if photo.boxes is not None
            ]
        return batch


def _checked(key: str, features: NDArray[Any], boxes: Any, size: tuple[int, int] | None) -> Regions:
    if boxes is not None and len(boxes) != len(features):
        raise ValueError(f"Photo {key!r} has {len(features)} region features and {len(boxes)} boxes.")
    return Regions(np.asarray(features), None if boxes is None else np.asarray(boxes)[:, :4], size)


def _pick(content: Mapping[str, Any], *names: str) -> Any | None:
    return next((content[name] for name in names if name in content), None)


def _size_in(content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = _pick(content, "image_h", "height"), _pick(content, "image_w", "width")
    return None if height is None or width is None else (int(height), int(width))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
