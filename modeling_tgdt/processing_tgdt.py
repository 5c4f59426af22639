# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT processor: captions with pixels or detector regions to model inputs."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .configuration_tgdt import LOADING_OPTIONS, OF_MODELS, refuse_unknown
from .image_processing_pil_tgdt import IMAGE_OPTIONS, TGDTImageInputMixin, plain_pictures
from .image_processing_tgdt import TGDTImageProcessor
from .tokenizing_tgdt import group_words, tokenize

logger = logging.get_logger(__name__)
_MOST_WORKERS = 1024
# Dual encoders whose texts have one length, padding included.
_FIXED_LENGTH = ("siglip", "siglip2")
_FIELDS = ("max_caption_length", "caption_padding", "attends_padding")
# Options of `from_pretrained` that are of no part.
# Pipelines give those of the model to the processor as well; whole parts replace those that were saved.
_OF_LOADING = LOADING_OPTIONS | OF_MODELS | {"backend", "config", "image_processor", "tokenizer", "use_fast"}


class TGDTProcessor(ProcessorMixin):
    """Prepare captions, and images or detector regions, for a [`TGDTModel`].

    Args:
        image_processor: A [`TGDTImageProcessor`], also where only regions are used; or transformers' own where a
            backbone has steps that ours does not express.
        tokenizer: Tokenizer of the text backbone.
        max_caption_length: Longest caption in tokens, special ones included; longer ones are cut and counted in
            `num_truncated`. A call may override it with `max_length`.
        caption_padding: Whether captions are padded to the `"longest"` of a batch or to that length, `"max_length"`.
        attends_padding: Whether the text backbone attends to padding, as those of SigLIP are trained to.

    Raises:
        ValueError: When the length is below 3.

    Example:
        `processor(text=["a red ball"], images=[picture], return_tensors="pt")`
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        max_caption_length: int = 64,
        caption_padding: str = "longest",
        attends_padding: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if max_caption_length < 3:
            raise ValueError(
                f"Expected max_caption_length of at least 3 ([CLS], a word, [SEP]), found {max_caption_length}."
            )
        tokenizer("", padding=False, truncation=False)  # the state in which every thread finds it
        self.max_caption_length = max_caption_length
        self.caption_padding = caption_padding
        self.attends_padding = attends_padding
        # One cell for this process and one for each worker of a data loader, which shares the memory.
        self._truncated = torch.zeros(_MOST_WORKERS, dtype=torch.int64).share_memory_()
        self.text_kwargs = {
            "padding": caption_padding,
            "truncation": True,
            "max_length": min(max_caption_length, tokenizer.model_max_length),
            "return_token_type_ids": False,
        }

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        regions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one batch; texts and images need not match in number.

        Args:
            images: Picture or list of pictures (PIL, array, tensor, path, URL).
            text: Caption or list of captions.
            regions: Instead of images: per image `{"features": (R, F), "boxes": (R, 4) xyxy in pixels or None,
                "image_size": (height, width)}`. For boxes already in [0, 1], an `image_size` of (1, 1).
            **kwargs: Options of the tokenizer and the image processor, flat or as `text_kwargs={...}` and
                `images_kwargs={...}`; `return_tensors="pt"` for tensors.

        Returns:
            Of what was given: `input_ids`, `attention_mask` (B, W) and `text_token_mask` (B, W) bool, true for words;
            `pixel_values` (B, C, H, W); `region_features` (B, R, F) float32, `region_boxes` (B, R, 4) float32 in
            [0, 1] unless there are none, `region_mask` (B, R) bool.

        Raises:
            ValueError: When nothing, or both images and regions are given, or an input is malformed.
            TypeError: When an image or a region is none.
        """
        if images is not None and regions is not None:
            raise ValueError("Expected images or regions, found both. Regions stand in for the pixels: pass one.")
        if images is None and regions is None and text is None:
            raise ValueError("Expected text, images or regions, found none. Pass at least one, by keyword.")
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        data: dict[str, Any] = {}
        if text is not None:
            data.update(self._tokenize(text, options["text_kwargs"]))
        if images is not None:
            data.update(self._pixels(images, options["images_kwargs"]))
        if regions is not None:
            data.update(batch_regions(regions))
        return BatchFeature(data, tensor_type=options["text_kwargs"].get("return_tensors"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor; see transformers' `ProcessorMixin`.

        Code of the repository runs only where the caller says `trust_remote_code=True`; nobody is asked on the way.

        Args:
            pretrained_model_name_or_path: Hub id or directory.
            *args: Of `ProcessorMixin.from_pretrained`.
            **kwargs: Download options (`revision`, `token`, ...); options of this class, its image processor or its
                tokenizer override what was saved.

        Raises:
            TypeError: For an option of none of them.
        """
        options = {"trust_remote_code": False, **kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        tokenizer = loaded.tokenizer
        of_tokenizer = [name for name in kwargs if hasattr(tokenizer, name)] + _arguments(type(tokenizer))
        refuse_unknown(kwargs, {*_OF_LOADING, *_FIELDS, *IMAGE_OPTIONS, *of_tokenizer}, cls.__name__)
        return loaded

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        """Find a class that a processor's file names; this processor needs no models."""
        loaded = ProcessorMixin.get_possibly_dynamic_module(module_name)
        if module_name.startswith("Auto") or (isinstance(loaded, type) and issubclass(loaded, PreTrainedModel)):
            raise ValueError(
                f"Expected an image processor or a tokenizer in the processor's files, found {module_name}."
            )
        return loaded

    @classmethod
    def from_dual_encoder_pretrained(cls, name_or_path: str, **options: Any) -> "TGDTProcessor":
        """Build the processor that prepares pictures and texts as a pretrained dual encoder's own does.

        Args:
            name_or_path: Hub id or directory of the dual encoder, with its tokenizer and image processor.
            **options: Of this class, such as `max_caption_length`; the others are download options such as `token`.

        Raises:
            ValueError: When it is not a model of images and texts.

        Example:
            `TGDTProcessor.from_dual_encoder_pretrained("openai/clip-vit-base-patch32")`
        """
        fields = {name: options.pop(name) for name in _FIELDS if name in options}
        loading = {"trust_remote_code": False, **options}
        config = AutoConfig.from_pretrained(name_or_path, **loading)
        if not hasattr(config, "text_config"):
            raise ValueError(
                f"Expected a dual encoder of images and texts, found {str(name_or_path)!r} of type "
                f"{config.model_type!r}. Make the processor of another model from its parts: TGDTProcessor("
                "image_processor, tokenizer)."
            )
        try:
            image_processor = TGDTImageProcessor.from_backbone(name_or_path, **options)
        except ValueError:  # steps of its own
            image_processor = AutoImageProcessor.from_pretrained(name_or_path, **loading)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **loading)
        is_fixed = config.model_type in _FIXED_LENGTH
        defaults: dict[str, Any] = {
            "max_caption_length": min(tokenizer.model_max_length, _positions(config.text_config)),
            "caption_padding": "max_length" if is_fixed else "longest",
            "attends_padding": is_fixed and "attention_mask" not in tokenizer.model_input_names,
        }
        return cls(image_processor, tokenizer, **(defaults | fields))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save the processor, with the custom code that loads it; see transformers' `ProcessorMixin`."""
        for name in ("padding_side", "truncation_side"):  # transformers saves what the tokenizer was made with
            if getattr(self.tokenizer, name) != getattr(type(self.tokenizer), name):
                self.tokenizer.init_kwargs[name] = getattr(self.tokenizer, name)
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        # Written for the Hub; kept on the object, it would make it differ from the one loaded back.
        self.__dict__.pop("auto_map", None)
        return files

    def words(self, input_ids: Any) -> list[tuple[str, list[int]]]:
        """Group the word pieces of one caption to words, special tokens left out.

        Args:
            input_ids: Token ids (W,), or (1, W).

        Returns:
            Per word, its text and the positions of its pieces in `input_ids`.
        """
        return group_words(self.tokenizer, np.asarray(input_ids).reshape(-1).tolist())

    @property
    def num_truncated(self) -> int:
        """How many captions were cut so far, those of data-loader workers included."""
        return int(self._truncated.sum())

    @property
    def model_input_names(self) -> list[str]:
        """Names of the default outputs for text and images."""
        return ["input_ids", "attention_mask", "text_token_mask", *self.image_processor.model_input_names]

    def _tokenize(self, text: Any, options: dict[str, Any]) -> dict[str, Any]:
        captions = [text] if isinstance(text, str) else text
        if not isinstance(captions, (list, tuple)) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"Expected text as a string or a list of strings, found {_kind(text)}.")
        if not captions:
            raise ValueError("Expected at least one caption, found an empty list. Leave text out instead.")
        tokenized = tokenize(self.tokenizer, captions, options, self.attends_padding)
        self._count_truncated(tokenized.num_cut, tokenized.lengths, options.get("max_length"))
        if isinstance(text, str) and options.get("return_tensors") is None:
            return {name: rows[0] for name, rows in tokenized.columns.items()}
        return dict(tokenized.columns)

    def _pixels(self, images: Any, options: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(self.image_processor, TGDTImageInputMixin):
            images = plain_pictures(images)  # transformers' own know fewer kinds of pictures and bit depths
        prepare: Any = self.image_processor
        return prepare(images, **options)

    def _count_truncated(self, cut: int, lengths: Sequence[int], limit: int | None) -> None:
        if not cut:
            return
        worker = get_worker_info()
        self._truncated[0 if worker is None else 1 + worker.id % (_MOST_WORKERS - 1)] += cut
        logger.warning_once(
            f"Captions longer than max_length={limit or self.tokenizer.model_max_length} tokens are cut (the longest "
            f"here has {max(lengths)}). Raise max_caption_length to keep them whole; `processor.num_truncated` counts "
            "them."
        )


def _arguments(kind: type) -> list[str]:
    """Name what the constructors of a class and its bases take."""
    constructors = [base.__init__ for base in kind.__mro__ if "__init__" in vars(base)]  # type: ignore[misc]
    return [name for call in constructors for name in inspect.signature(call).parameters if name != "kwargs"]


def _positions(text_config: Any) -> int:
    return getattr(text_config, "max_position_embeddings", None) or 1 << 30


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {sorted({type(item).__name__ for item in value})}"
    return type(value).__name__


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
        TypeError: When an item is not a mapping.
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


__all__ = ["TGDTProcessor"]
