# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT image processor on PIL and numpy: runs without torchvision."""

from typing import Any

from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .image_options_tgdt import TGDTImageInputMixin


class TGDTImageProcessorPil(TGDTImageInputMixin, PilBackend):
    """Turn pictures into `pixel_values` (B, 3, height, width) float32 with PIL.

    The same options and defaults as [`TGDTImageProcessor`]: RGB, resize to 224 x 224, scale by 1/255, ImageNet mean
    and standard deviation.

    Args:
        **kwargs: Options of transformers' image processors (`size`, `resample`, `do_center_crop`, `crop_size`,
            `rescale_factor`, `image_mean`, `image_std`, ...); all are saved with the processor.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


__all__ = ["TGDTImageProcessorPil"]
