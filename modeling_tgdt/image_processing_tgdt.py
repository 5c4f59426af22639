# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT image processor: on torchvision where it is installed, on PIL elsewhere."""

from typing import Any

from transformers.image_processing_backends import TorchvisionBackend
from transformers.utils import is_torchvision_available

from .image_processing_pil_tgdt import TGDTImageInputMixin, TGDTImageProcessorPil

if is_torchvision_available():

    class TGDTImageProcessor(TGDTImageInputMixin, TorchvisionBackend):  # type: ignore[misc]
        """Turn pictures into `pixel_values` (B, 3, height, width) float32 with torchvision, batched, on any device.

        Args:
            **kwargs: Options of transformers' image processors (`size`, `resample`, `do_center_crop`, `crop_size`,
                `rescale_factor`, `image_mean`, `image_std`, ...); all are saved with the processor. Defaults: RGB,
                resize to 224 x 224, scale by 1/255, ImageNet mean and standard deviation.
        """

        resample = TGDTImageProcessorPil.resample
        image_mean = TGDTImageProcessorPil.image_mean
        image_std = TGDTImageProcessorPil.image_std
        size = TGDTImageProcessorPil.size
        do_resize = True
        do_rescale = True
        do_normalize = True
        do_convert_rgb = True

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)

else:

    class TGDTImageProcessor(TGDTImageProcessorPil):  # type: ignore[no-redef]
        """Turn pictures into `pixel_values` (B, 3, height, width) float32; torchvision is missing, so PIL does it."""


__all__ = ["TGDTImageProcessor"]
