# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT processor: captions with pixels or detector regions to model inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .region_inputs_tgdt import batch_regions
from .word_groups_tgdt import group_words

logger = logging.get_logger(__name__)


class TGDTProcessor(ProcessorMixin):
    """Prepare captions, and images or detector regions, for a [`TGDTModel`].

    Args:
        image_processor: A [`TGDTImageProcessor`], also where only regions are used.
        tokenizer: Tokenizer of the text backbone.
        max_caption_length: Longest caption in tokens, special ones included; longer ones are cut and counted in
            `num_truncated`. A call may override it with `max_length`.

    Example:
        `processor(text=["a red ball"], images=[picture], return_tensors="pt")`
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, max_caption_length: int = 64, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if max_caption_length < 3:
            raise ValueError(
                f"Expected max_caption_length of at least 3 ([CLS], a word, [SEP]), found {max_caption_length}."
            )
        self.max_caption_length = max_caption_length
        self.num_truncated = 0
        self.text_kwargs = {
            "padding": True,
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
            Of what was given: `input_ids`, `attention_mask` (B, W); `pixel_values` (B, C, H, W); `region_features`
            (B, R, F) float32, `region_boxes` (B, R, 4) float32 in [0, 1] unless there are none, `region_mask`
            (B, R) bool.

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
            data.update(self.image_processor(images, **options["images_kwargs"]))
        if regions is not None:
            data.update(batch_regions(regions))
        return BatchFeature(data, tensor_type=options["text_kwargs"].get("return_tensors"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor; see transformers' `ProcessorMixin`.

        Code of the repository runs only where the caller says `trust_remote_code=True`; nobody is asked on the way.
        """
        return super().from_pretrained(pretrained_model_name_or_path, *args, **{"trust_remote_code": False, **kwargs})

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        """Find a class that a processor's file names; this processor has no use for models."""
        found = ProcessorMixin.get_possibly_dynamic_module(module_name)
        if module_name.startswith("Auto") or (isinstance(found, type) and issubclass(found, PreTrainedModel)):
            raise ValueError(
                f"Expected an image processor or a tokenizer in the processor's files, found {module_name}."
            )
        return found

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save the processor, with the custom code that loads it; see transformers' `ProcessorMixin`."""
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
    def model_input_names(self) -> list[str]:
        """Names of the default outputs for text and images."""
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]

    def _tokenize(self, text: Any, options: dict[str, Any]) -> dict[str, Any]:
        captions = [text] if isinstance(text, str) else text
        if not isinstance(captions, (list, tuple)) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"Expected text as a string or a list of strings, found {_kind(text)}.")
        if not captions:
            raise ValueError("Expected at least one caption, found an empty list. Leave text out instead.")
        encoded = dict(self.tokenizer(text if isinstance(text, str) else list(captions), **options))
        if options.get("truncation"):
            self._count_truncated(captions, encoded.get("attention_mask"), options.get("max_length"))
        return encoded

    def _count_truncated(self, captions: Sequence[str], masks: Any, limit: int | None) -> None:
        limit = limit or self.tokenizer.model_max_length
        if masks is None:
            return
        rows = [masks] if len(captions) == 1 and np.ndim(masks) == 1 else masks
        full = [caption for caption, row in zip(captions, rows, strict=False) if np.asarray(row).sum() >= limit]
        if not full:
            return
        lengths = [len(ids) for ids in self.tokenizer(full, truncation=False, verbose=False)["input_ids"]]
        cut = sum(length > limit for length in lengths)
        if cut:
            self.num_truncated += cut
            logger.warning_once(
                f"Captions longer than max_length={limit} tokens are cut (the longest here has {max(lengths)}). Raise "
                "max_caption_length to keep them whole; `processor.num_truncated` counts them."
            )


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {sorted({type(item).__name__ for item in value})}"
    return type(value).__name__


__all__ = ["TGDTProcessor"]
