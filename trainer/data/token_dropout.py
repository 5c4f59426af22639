# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Leave out some words and regions of every example, so that no single one carries the match.

Known as size augmentation (Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding", CVPR 2021,
section 4). torch's default generator draws, so that a resumed run draws as one that went through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def drop_words(caption: str, share: float) -> str:
    """Leave out each word of a caption with probability `share`; one word always stays.

    Args:
        caption: Words between white space. A language that writes without spaces keeps its caption.
        share: From 0 to below 1.

    Example:
        >>> drop_words("a dog runs", 0.0)
        'a dog runs'
    """
    words = caption.split()
    if not share or len(words) < 2:
        return caption
    drawn = torch.rand(len(words))
    kept = drawn >= share
    kept[drawn.argmax()] = True
    return " ".join(word for word, stays in zip(words, kept.tolist(), strict=True) if stays)


def drop_regions(example: Mapping[str, Any], share: float) -> Mapping[str, Any]:
    """Leave out a random `share` of the regions of an example; one region always stays.

    Args:
        example: With `region_features` (R, F) and maybe `region_boxes` (R, 4); any other is returned as it is.
        share: From 0 to below 1; how many regions go depends on R alone.
    """
    features = example.get("region_features")
    if not share or features is None or len(features) < 2:
        return example
    rows = _drawn(len(features), max(1, round((1 - share) * len(features))))
    boxes = example.get("region_boxes")
    kept = {"region_features": torch.as_tensor(features)[rows]}
    return {**example, **kept, **({} if boxes is None else {"region_boxes": torch.as_tensor(boxes)[rows]})}


def _drawn(count: int, kept: int) -> Tensor:
    return torch.randperm(count)[:kept].sort().values
