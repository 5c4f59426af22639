# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Detector regions of several images, checked and padded to one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_EXPECTED = '{"features": (R, F), "boxes": (R, 4) in pixels or None, "image_size": (height, width)}'
BOX_SLACK = 0.05  # detectors overshoot the border by a few pixels; more than that means a wrong size


def batch_regions(regions: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Check and pad the regions of one or several images.

    Args:
        regions: Per image, a mapping with `features` (R, F); `boxes` (R, 4), pixel corners x1, y1, x2, y2, or `None`;
            `image_size` (height, width) in pixels. For boxes that are already in [0, 1], pass an `image_size` of
            (1, 1). R differs between images, F does not.

    Returns:
        `region_features` (B, R, F) float32 and `region_mask` (B, R) bool, R the largest count, padding 0 and `False`;
        with boxes also `region_boxes` (B, R, 4) float32 in [0, 1].

    Raises:
        TypeError: When an item is no mapping.
        ValueError: On missing keys, wrong shapes, values that are not finite, boxes outside the image, or boxes on
            some images only.
    """
    samples = [regions] if isinstance(regions, Mapping) else list(regions)
    if not samples:
        raise ValueError(f"Expected the regions of at least one image, found none. Pass a list of {_EXPECTED}.")
    features = [_features(sample, index) for index, sample in enumerate(samples)]
    widths = sorted({array.shape[1] for array in features})
    if len(widths) > 1:
        raise ValueError(f"Expected region features of one width in a batch, found {widths}. Use one detector.")
    mask = np.zeros((len(samples), max(map(len, features))), dtype=bool)
    for row, array in zip(mask, features, strict=True):
        row[: len(array)] = True
    batch = {"region_features": _padded(features, mask), "region_mask": mask}
    boxes = [_boxes(sample, len(features[index]), index) for index, sample in enumerate(samples)]
    given = [array for array in boxes if array is not None]
    if given and len(given) < len(samples):
        missing = [index for index, array in enumerate(boxes) if array is None]
        raise ValueError(f"Expected boxes on all images of a batch or on none, found none on {missing[:8]}.")
    if given:
        batch["region_boxes"] = _padded(given, mask)
    return batch


def _padded(arrays: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    batch = np.zeros((*mask.shape, arrays[0].shape[1]), dtype=np.float32)
    for row, array in zip(batch, arrays, strict=True):
        row[: len(array)] = array
    return batch


def _array(value: Any, dtype: type) -> np.ndarray:
    if hasattr(value, "detach"):  # tensors; numpy has no bfloat16
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    return np.asarray(value, dtype=dtype)


def _features(sample: Mapping[str, Any], index: int) -> np.ndarray:
    if not isinstance(sample, Mapping):
        raise TypeError(f"Expected regions[{index}] as {_EXPECTED}, found {type(sample).__name__}.")
    if sample.get("features") is None:
        raise ValueError(f"Expected regions[{index}] as {_EXPECTED}, found the keys {sorted(sample)}.")
    features = _array(sample["features"], np.float32)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"Expected regions[{index}]['features'] of shape (R, F) with at least one region, found {features.shape}."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"Expected finite features, found NaN or infinity in regions[{index}]. Leave that image out.")
    return features


def _boxes(sample: Mapping[str, Any], count: int, index: int) -> np.ndarray | None:
    if sample.get("boxes") is None:
        return None
    # Divided in double precision, as the reference does.
    boxes = _array(sample["boxes"], np.float64)
    if boxes.shape != (count, 4):
        raise ValueError(
            f"Expected regions[{index}]['boxes'] of shape ({count}, 4), one box per feature, found {boxes.shape}."
        )
    size = sample.get("image_size")
    if size is None or len(size) != 2 or not all(float(side) > 0 for side in size):
        raise ValueError(
            f"Expected regions[{index}]['image_size'] = (height, width) in pixels, found {size!r}. For boxes that are "
            "already in [0, 1], pass (1, 1)."
        )
    height, width = (float(side) for side in size)
    boxes = boxes / np.array([width, height, width, height])
    if not ((boxes >= -BOX_SLACK) & (boxes <= 1 + BOX_SLACK)).all():
        raise ValueError(
            f"Expected boxes (x1, y1, x2, y2) inside image_size (height, width) = {tuple(size)}, found "
            f"{boxes.min():.3g}..{boxes.max():.3g} of it in regions[{index}]. Are height and width swapped?"
        )
    return boxes.astype(np.float32)
