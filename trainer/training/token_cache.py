# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Run a frozen vision backbone once and keep its tokens, so that training runs at the speed of the heads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..data.caption_dataset import undecoded, with_picture
from ..data.region_features import RegionReader, Regions
from ..data.skip_report import SkipReport
from ..data_collator import TGDTDataCollator
from ..images import OnError, check_policy

logger = logging.getLogger(__name__)

_VERSION = 1
_MANIFEST = "manifest.json"
_ARRAYS = ("features", "boxes", "offsets")


@dataclass
class TokenStore:
    """A finished cache, memory-mapped: tokens of photo i are the rows `offsets[i]` to `offsets[i + 1]`.

    Files: `features.npy` (sum of R, F) float16, `boxes.npy` (sum of R, 4) float32, `offsets.npy` (N + 1,) int64,
    `manifest.json`. Rows are keyed by their number.
    """

    path: Path
    has_boxes: bool = True
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The memory-mapped files; mapped once per process."""
        if not self._arrays:
            self._arrays = {name: np.load(self.path / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    def __contains__(self, key: str) -> bool:
        return key.isascii() and key.isdigit() and int(key) < len(self.arrays["offsets"]) - 1

    def read(self, key: str) -> Regions:
        """Return the tokens of one photo.

        Args:
            key: Row number.
        """
        first, last = self.arrays["offsets"][int(key) : int(key) + 2]
        features = np.array(self.arrays["features"][first:last])
        return Regions(features, np.array(self.arrays["boxes"][first:last]))


def cache_tokens(
    model: Any,
    processor: Any,
    dataset: datasets.Dataset,
    cache_dir: str | Path,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    on_error: OnError = "raise",
    report: SkipReport | None = None,
    progress: bool = True,
    autocast_dtype: torch.dtype | None = None,
) -> datasets.Dataset:
    """Return the data set with the vision backbone's tokens in place of its pictures.

    The tokens are computed once per combination of backbone weights, preprocessing and pictures, which name the cache
    folder; a second call only maps the files. A killed run leaves a temporary folder and no half cache.

    Args:
        model: TGDTModel with a vision backbone, which is taken as it is (evaluation mode, frozen).
        processor: TGDTProcessor.
        dataset: Pictures with `captions` and `image_id`, see [`load_captions`].
        cache_dir: Folder of all caches.
        batch_size: Photos per forward pass.
        num_workers: Data-loader processes that decode pictures.
        on_error: Unreadable pictures: `"raise"`, `"skip"` (the photo is left out) or `"placeholder"`.
        report: Receives (image_id, why) of unreadable pictures.
        progress: Whether to show a progress bar.
        autocast_dtype: Mixed precision of the backbone, such as bfloat16 for a model that trains in it.

    Returns:
        Data set with `region_features` (R, F) float16, `region_boxes` (R, 4) in [0, 1], `captions`, `image_id`
        and, where the data have it, `group_id`.

    Raises:
        ValueError: When the data set has no pictures.
        UnreadableImageError: For a broken picture under `on_error="raise"`.
    """
    check_policy(on_error)
    if "image" not in dataset.column_names:
        raise ValueError(f"Caching tokens needs an 'image' column, found {dataset.column_names}.")
    if "negative_images" in dataset.column_names:
        raise ValueError("negative_images are not cached: remove the column, or leave cache_vision_tokens off.")
    key = cache_key(model, processor, dataset, on_error, autocast_dtype)
    folder = Path(cache_dir) / f"tokens-{key}"
    with PartialState().main_process_first():
        if (folder / _MANIFEST).is_file():
            logger.info("Reusing the tokens in %s", folder)
        else:
            rows = undecoded(dataset).select_columns(["image", "image_id"])
            loader = torch.utils.data.DataLoader(
                _Pictures(rows, on_error, SkipReport() if report is None else report),
                batch_size,
                num_workers=num_workers,
                collate_fn=_Collate(TGDTDataCollator(processor)),
            )
            _write_cache(folder, key, _encode(model, loader, progress, autocast_dtype), len(dataset))
    return _with_tokens(dataset, folder, report)


def cache_key(
    model: Any,
    processor: Any,
    dataset: datasets.Dataset,
    on_error: str = "raise",
    autocast_dtype: torch.dtype | None = None,
) -> str:
    """Return the fingerprint of everything that the tokens depend on.

    Args:
        model: Its vision backbone counts: configuration and every weight.
        processor: Its image processor's settings count.
        dataset: Every picture counts: its bytes, or its path, size and time of change.
        on_error: A placeholder is a picture too.
        autocast_dtype: Mixed precision rounds the tokens.
    """
    digest = hashlib.blake2b(f"{_VERSION} {on_error} {autocast_dtype}".encode(), digest_size=12)
    config = {name: value for name, value in model.config.vision_config.to_dict().items() if name != "_name_or_path"}
    if model.config.image_global_token == "pooled":  # the first token is the whole image then
        config["image_global_token"] = "pooled"
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.vision_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str).encode())
    for row in undecoded(dataset).select_columns(["image", "image_id"]):
        digest.update(row["image_id"].encode())
        digest.update(_picture_mark(row["image"]))
    return digest.hexdigest()


def _picture_mark(image: Any) -> bytes:
    if image is None:
        return b"missing"
    if image.get("bytes") is not None:
        return hashlib.blake2b(image["bytes"], digest_size=16).digest()
    path = Path(image["path"])
    stat = path.stat() if path.is_file() else None
    return f"{path} {stat and (stat.st_size, stat.st_mtime_ns)}".encode()


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, dataset: datasets.Dataset, on_error: OnError, report: SkipReport) -> None:
        self.dataset, self.on_error, self.report = dataset, on_error, report

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        return with_picture(self.dataset[index], self.on_error, self.report)


@dataclass
class _Collate:
    """Pixels of the readable pictures, and which they are."""

    collator: TGDTDataCollator

    def __call__(self, examples: list[dict[str, Any] | None]) -> tuple[list[bool], torch.Tensor | None]:
        readable = [example for example in examples if example is not None]
        pixels = self.collator.images(readable)["pixel_values"] if readable else None
        return [example is not None for example in examples], pixels


def _encode(
    model: Any, loader: Any, progress: bool, autocast_dtype: torch.dtype | None
) -> Iterator[tuple[NDArray[Any], NDArray[Any], list[int]]]:
    """Yield by batch: features (sum of R, F) float16, boxes (sum of R, 4) float32, counts (0 for skipped photos)."""
    training = model.training
    model.eval()
    model.vision_model.to(memory_format=torch.channels_last)  # convolutions run up to twice as fast so
    precision = torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None)
    try:
        for readable, pixels in tqdm(loader, desc="Caching tokens", unit="batch", disable=not progress):
            counts = [0] * len(readable)
            if pixels is None:
                yield np.zeros((0, 0), np.float16), np.zeros((0, 4), np.float32), counts
                continue
            with torch.inference_mode(), precision:
                pixels = pixels.to(model.device, memory_format=torch.channels_last)
                features, boxes, mask = model.encode_regions(pixels)
            lengths = iter(mask.sum(1).tolist())
            counts = [int(next(lengths)) if ok else 0 for ok in readable]
            yield features[mask].half().cpu().numpy(), boxes[mask].float().cpu().numpy(), counts
    finally:
        model.train(training)


def _write_cache(folder: Path, key: str, batches: Iterator[Any], photos: int) -> None:
    """Write beside the final place and rename: the folder exists complete or not at all."""
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        offsets = [0]
        with (temporary / "features.bin").open("wb") as features, (temporary / "boxes.bin").open("wb") as boxes:
            width = 0
            for batch_features, batch_boxes, counts in batches:
                width = max(width, batch_features.shape[1])
                features.write(np.ascontiguousarray(batch_features).data)
                boxes.write(np.ascontiguousarray(batch_boxes).data)
                offsets.extend((offsets[-1] + np.cumsum(counts)).tolist())
        _finish_array(temporary, "features", np.dtype(np.float16), (offsets[-1], width))
        _finish_array(temporary, "boxes", np.dtype(np.float32), (offsets[-1], 4))
        np.save(temporary / "offsets.npy", np.asarray(offsets, dtype=np.int64))
        manifest = {"version": _VERSION, "fingerprint": key, "photos": photos, "tokens": offsets[-1], "width": width}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if not (folder / _MANIFEST).is_file():  # another process may have been faster
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _finish_array(folder: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """Put the .npy header, whose shape is known only now, before the rows written so far."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with (folder / f"{name}.npy").open("wb") as file, (folder / f"{name}.bin").open("rb") as rows:
        np.lib.format.write_array_header_1_0(file, header)
        _copy(rows, file)
    (folder / f"{name}.bin").unlink()


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    shutil.copyfileobj(source, target, length=1 << 24)


def _with_tokens(dataset: datasets.Dataset, folder: Path, report: SkipReport | None) -> datasets.Dataset:
    store = TokenStore(folder)
    counts = np.diff(store.arrays["offsets"])
    kept = np.flatnonzero(counts > 0)
    wanted = ("captions", "image_id", "group_id", "negative_captions")
    names = [name for name in wanted if name in dataset.column_names]
    rows = dataset.with_format(None).select_columns(names).select(kept)[:]
    if report is not None and len(kept) < len(counts):
        ids = dataset.with_format(None).select_columns(["image_id"])["image_id"][:]
        known = {image_id for image_id, _ in report.items}
        for row in np.flatnonzero(counts == 0):
            if ids[row] not in known:
                report.add(ids[row], f"left out of the token cache {folder.name}")
    keys = [str(row) for row in kept]
    table = datasets.Dataset.from_dict({"region_features": keys, "region_boxes": keys, **rows})
    return table.with_transform(RegionReader(store))
