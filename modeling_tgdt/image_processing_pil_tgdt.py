# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT image processor on PIL and numpy, which runs without torchvision, and what it shares with the other one."""

import os
from collections.abc import Iterator
from typing import Any

from PIL import Image
from transformers import PreTrainedConfig
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, PILImageResampling
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.processing_utils import ImagesKwargs

from .configuration_tgdt import LOADING_OPTIONS, refuse_unknown
from .image_loading_tgdt import channels_first, eight_bit_array, open_image, rgb_picture, upright_picture

_COPIED = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
_TIMM_CROP = 0.875
# Classes with steps of their own that the options above nevertheless express.
_EXPRESSIBLE = ("ConvNextImageProcessor", "DINOv3ViTImageProcessor")
# Custom code for the Hub: which class is loaded for a `backend` (once `use_fast`).
_BACKENDS = {
    "pil": "image_processing_pil_tgdt.TGDTImageProcessorPil",
    "torchvision": "image_processing_tgdt.TGDTImageProcessor",
}
IMAGE_OPTIONS = frozenset(ImagesKwargs.__annotations__)
_CONVNEXT_WARP_FROM = 384  # ConvNext crops below this size and warps from it on


class TGDTImageInputMixin:
    """Inputs of the TGDT image processors: paths, URLs, base64, PIL pictures, arrays and tensors of any bit depth."""

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and URLs, at any depth of nested lists; pass pictures, arrays and tensors through.

        Raises:
            ValueError: When a file is missing, damaged or not a picture.
            TypeError: When an item is not a picture at all.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(item) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, (str, os.PathLike)):
            return open_image(image_url_or_urls)
        if isinstance(image_url_or_urls, Image.Image) or hasattr(image_url_or_urls, "ndim"):
            return image_url_or_urls
        raise TypeError(
            "Expected an image as PIL picture, numpy array, torch tensor, path or URL, found "
            f"{type(image_url_or_urls).__name__}. Open it first, or leave it out."
        )

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        # transformers' own version knows neither gray arrays (H, W) nor lists of mixed kinds.
        flat = list(_flatten(self.fetch_images(images)))
        if not flat:
            raise ValueError("Expected at least one image, found an empty list. Leave images out instead.")
        return flat

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Bring one picture to an upright, 8-bit, channels-first array of this backend."""
        if isinstance(image, Image.Image):
            image = rgb_picture(image) if do_convert_rgb else upright_picture(image)
        else:
            image = eight_bit_array(image, rescale=bool(kwargs.get("do_rescale")))
            if image.ndim == 2:
                image, input_data_format = image[None], ChannelDimension.FIRST
            if input_data_format is None:
                input_data_format = ChannelDimension.FIRST if channels_first(image) else ChannelDimension.LAST
            if isinstance(self, PilBackend) and hasattr(image, "cpu"):
                image = image.cpu()
        return super().process_image(  # type: ignore[misc]
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device, **kwargs
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load an image processor; see transformers' `ImageProcessingMixin`.

        Args:
            pretrained_model_name_or_path: Hub id or directory.
            **kwargs: Download options (`revision`, `token`, ...); options of this class override what was saved.

        Raises:
            TypeError: For an option that is neither.
        """
        if not kwargs.get("_from_auto"):  # Auto classes give the options of all parts to each of them
            refuse_unknown(kwargs, IMAGE_OPTIONS | LOADING_OPTIONS | {"return_unused_kwargs"}, cls.__name__)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved; custom code for the Hub has a class for each backend whose file lies beside it."""
        content: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        auto_map = content.get("auto_map") or {}
        recorded = auto_map.get("AutoImageProcessor")
        if recorded == _BACKENDS["torchvision"] or "AutoProcessor" in auto_map:
            content["auto_map"] = {**auto_map, "AutoImageProcessor": _BACKENDS}
        return content

    @classmethod
    def from_backbone(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Build the image processor with a vision backbone's own size, crop, scale, mean and standard deviation.

        Args:
            pretrained_model_name_or_path: Repository or directory with a `preprocessor_config.json`, or of timm.
            **kwargs: Download options (`revision`, `token`, `subfolder`, ...); any option of this class overrides
                what the backbone says.

        Raises:
            OSError: When there is no preprocessor configuration.
            TypeError: For an option that is neither of the download nor of this class.
            ValueError: When the backbone's preprocessing has steps that these options do not express.

        Example:
            `TGDTImageProcessor.from_backbone("facebook/dinov2-small")`
        """
        overrides = {key: kwargs.pop(key) for key in list(kwargs) if key in IMAGE_OPTIONS}
        source, unknown = _preprocessing_of(pretrained_model_name_or_path, **kwargs)
        if unknown:
            raise TypeError(
                f"Expected download options or options of {cls.__name__}, found {next(iter(unknown))!r}. Leave it out."
            )
        return cls(**{**backbone_options(source), **overrides})


def plain_pictures(images: Any) -> list[Image.Image]:
    """Bring pictures to upright 8-bit RGB, for an image processor that takes nothing else.

    Args:
        images: As for the TGDT image processors.
    """
    return [rgb_picture(image) for image in _flatten(TGDTImageInputMixin().fetch_images(images))]


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)) or (not isinstance(images, Image.Image) and images.ndim == 4):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def backbone_options(source: dict[str, Any]) -> dict[str, Any]:
    """Translate a backbone's preprocessor configuration to options of the TGDT image processors.

    Args:
        source: Content of a `preprocessor_config.json`; what it leaves out has the default of its own class.

    Raises:
        ValueError: When the configuration has steps or sizes that these options do not express.
    """
    name = source.get("image_processor_type") or source.get("feature_extractor_type") or ""
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    original = _original_class(name)
    if original is not None and name not in _EXPRESSIBLE and _has_own_steps(original):
        raise ValueError(
            f"Expected standard preprocessing (resize, crop, rescale, normalise), found {name!r} with steps of its "
            f"own. Set the options by hand, for example TGDTImageProcessor(size={{'height': 224, 'width': 224}})."
        )
    options: dict[str, Any] = {key: source.get(key, getattr(original, key, None)) for key in _COPIED}
    # Without a class to ask, "not mentioned" means "not done" for the crop only.
    options["do_center_crop"] = bool(options["do_center_crop"])
    if isinstance(options["size"], int):
        square = source.get("default_to_square", getattr(original, "default_to_square", True))
        options["size"] = (
            {"height": options["size"], "width": options["size"]} if square else {"shortest_edge": options["size"]}
        )
    if name == "ConvNextImageProcessor":
        options.update(_convnext_size(options["size"], source.get("crop_pct") or 224 / 256))
    _check_one_size(options, name)
    return {key: value for key, value in options.items() if value is not None}


def _preprocessing_of(name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the preprocessor configuration of a repository, and those of the options that are of no download."""
    try:
        return ImageProcessingMixin.get_image_processor_dict(name_or_path, **kwargs)
    except OSError:
        config, unknown = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
        if not config.get("pretrained_cfg"):
            raise
        return timm_preprocessing(config["pretrained_cfg"]), unknown


def timm_preprocessing(settings: dict[str, Any]) -> dict[str, Any]:
    """Translate timm's settings of a pretrained model to a preprocessor configuration, as timm evaluates.

    Args:
        settings: The `pretrained_cfg` of its configuration; what it leaves out has timm's default.

    Raises:
        ValueError: For pictures that are not squares, or cropped in another way than at the centre.

    Example:
        >>> timm_preprocessing({"input_size": [3, 224, 224], "crop_pct": 0.9})["size"]
        {'shortest_edge': 248}
    """
    _, height, width = settings["input_size"]
    if height != width or settings.get("crop_mode", "center") != "center":
        raise ValueError(
            f"Expected square pictures cut out at the centre, found input_size={settings['input_size']} and crop_mode="
            f"{settings.get('crop_mode')!r}. Set the options by hand: TGDTImageProcessor(size=..., image_mean=...)."
        )
    resample = settings.get("interpolation", "bicubic").upper()
    return {
        "size": {"shortest_edge": int(height / (settings.get("crop_pct") or _TIMM_CROP))},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "resample": int(Image.Resampling[resample]),
        "image_mean": list(settings.get("mean", IMAGENET_DEFAULT_MEAN)),
        "image_std": list(settings.get("std", IMAGENET_DEFAULT_STD)),
    }


def _original_class(name: str) -> type | None:
    for candidate in (f"{name}Pil", name):
        processor_class = get_image_processor_class_from_name(candidate) if name else None
        if processor_class is not None and not getattr(processor_class, "is_dummy", False):
            return processor_class
    return None


def _has_own_steps(original: type) -> bool:
    for backend in (PilBackend, TorchvisionBackend):
        if issubclass(original, backend):
            return any(getattr(original, step) is not getattr(backend, step) for step in ("_preprocess", "resize"))
    return True


def _convnext_size(size: dict[str, int], crop_pct: float) -> dict[str, Any]:
    edge = size.get("shortest_edge") or size["height"]
    square = {"height": edge, "width": edge}
    if edge >= _CONVNEXT_WARP_FROM:
        return {"size": square}
    return {"size": {"shortest_edge": int(edge / crop_pct)}, "do_center_crop": True, "crop_size": square}


def _check_one_size(options: dict[str, Any], name: str) -> None:
    size = options["size"] or {}
    fixed = options["do_resize"] is not False and {"height", "width"} <= size.keys()
    if not fixed and not (options["do_center_crop"] and options["crop_size"]):
        raise ValueError(
            f"Expected a preprocessor configuration that gives all images one size, found size={size} without a "
            f"centre crop ({name or 'no class named'}). Pass size={{'height': ..., 'width': ...}} explicitly."
        )


class TGDTImageProcessorPil(TGDTImageInputMixin, PilBackend):  # type: ignore[misc]
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
