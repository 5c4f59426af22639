# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Turn examples (picture or regions, caption, image_id) into the inputs of TGDTModel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.token_dropout import drop_regions, drop_words

Example = Mapping[str, Any]


@dataclass
class TGDTDataCollator:
    """Collate captioned photos for TGDTModel and CMCTrainer.

    Negatives that are none: `image_ids` marks captions of one photo, which the loss never takes as each other's
    negatives. Two *different* photos may also share a caption word for word ("a dog runs"). Giving both photos one id
    would be wrong: their other captions do tell them apart, and equality would spread from photo to photo through
    shared captions. So equal texts get an id of their own, `caption_ids`: the cell (photo i, caption j) of a batch is
    no negative when `image_ids` agree or `caption_ids` agree, and nothing follows for other cells.

    Hard negatives of the examples follow the pairs: `negative_captions` on the text side, which every image is ranked
    against, `negative_images` on the image side, which every caption is.

    Args:
        processor: TGDTProcessor: makes pixels and word pieces. Not used for regions, which are padded here.
        max_length: Longest caption in word pieces; the tokenizer's own limit by default.
        return_loss: Put into the batch as `return_loss`, or left out when None.
        return_caption_ids: Whether to add `caption_ids` (Bt,).
        word_dropout: Probability with which a word of a caption is left out. Ids of captions are those of whole ones.
        region_dropout: Share of the regions of an example that is left out; images are not touched.

    Example:
        >>> stable_id("photo-1") == stable_id("photo-1"), stable_id("photo-1") == stable_id("photo-2")
        (True, False)
    """

    processor: Any
    max_length: int | None = None
    return_loss: bool | None = True
    return_caption_ids: bool = True
    word_dropout: float = 0.0
    region_dropout: float = 0.0

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Collate B examples.

        Args:
            examples: Each with `caption`, optional `image_id`, and `image` (PIL) or `region_features` (R, F) with
                optional `region_boxes` (R, 4) xyxy in [0, 1]. Without ids every example is a photo of its own.
                Optional lists: `negative_captions`, `negative_images` (PIL) and `negative_image_ids`.

        Returns:
            `input_ids`, `attention_mask` and `text_token_mask` (Bt, W), `pixel_values` (Bi, C, H, W) or
            `region_features` (Bi, R, F), `region_boxes` (Bi, R, 4) and `region_mask` (Bi, R) bool, `image_ids` (Bi,)
            and `caption_ids` (Bt,) int64, `return_loss`; `num_pairs` = B when hard negatives follow the B pairs of a
            side.

        Raises:
            ValueError: When there is no example, or one lacks a caption, a picture or regions.
        """
        if not examples:
            raise ValueError("Cannot collate an empty list of examples.")
        captions = [self._caption(example) for example in examples]
        captions += [text for example in examples for text in example.get("negative_captions") or ()]
        pictures = [*examples, *negative_images(examples)]
        texts = self.texts([drop_words(caption, self.word_dropout) for caption in captions])
        images = self.images([drop_regions(example, self.region_dropout) for example in pictures])
        batch: dict[str, Any] = {**texts, **images}
        batch["image_ids"] = image_id_tensor(pictures)
        if max(len(captions), len(pictures)) > len(examples):
            batch["num_pairs"] = len(examples)
        if self.return_caption_ids:
            batch["caption_ids"] = torch.tensor([stable_id(normalise_caption(text)) for text in captions])
        if self.return_loss is not None:
            batch["return_loss"] = self.return_loss
        return batch

    def texts(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize captions, padded and cut as the processor does.

        Args:
            captions: B captions.

        Returns:
            `input_ids`, `attention_mask` and `text_token_mask` (B, W).
        """
        limit = {} if self.max_length is None else {"max_length": self.max_length}
        encoded = self.processor(text=list(captions), return_tensors="pt", **limit)
        return {name: encoded[name] for name in ("input_ids", "attention_mask", "text_token_mask")}

    def images(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make the image side of a batch.

        Args:
            examples: B examples with `image`, or with `region_features`.

        Returns:
            `pixel_values` and what the image processor gives with them, or `region_features`, `region_boxes` (when
            given) and `region_mask`.

        Raises:
            ValueError: When an example has neither.
        """
        if all(example.get("region_features") is not None for example in examples):
            return pad_regions(examples)
        missing = [example for example in examples if example.get("image") is None]
        if missing:
            raise ValueError(
                "Every example needs 'image', or every example 'region_features'. Found the keys "
                f"{sorted(missing[0])}. Load the data with trainer.load_captions and wrap it in CaptionDataset."
            )
        return dict(self.processor(images=[example["image"] for example in examples], return_tensors="pt"))

    @staticmethod
    def _caption(example: Example) -> str:
        caption = example.get("caption")
        if not isinstance(caption, str):
            hint = (
                " Wrap the data set in CaptionDataset, which gives one caption each." if "captions" in example else ""
            )
            raise ValueError(f"Every example needs a text 'caption'. Found the keys {sorted(example)}.{hint}")
        return caption


def pad_regions(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Pad regions to the longest photo of the batch.

    Args:
        examples: B examples with `region_features` (R, F) and maybe `region_boxes` (R, 4).

    Returns:
        `region_features` (B, R, F) float32, `region_mask` (B, R) bool and, when all have boxes, `region_boxes`.

    Raises:
        ValueError: When widths or counts disagree, only some examples have boxes, or boxes are not in [0, 1].
    """
    features = [_as_tensor(example["region_features"]) for example in examples]
    boxes = [_as_tensor(example["region_boxes"]) for example in examples if example.get("region_boxes") is not None]
    if any(f.ndim != 2 or f.shape[1] != features[0].shape[-1] for f in features):
        raise ValueError(f"region_features must be (R, F) of one width F, found {[tuple(f.shape) for f in features]}.")
    lengths = torch.tensor([len(regions) for regions in features])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    batch = {"region_features": torch.nn.utils.rnn.pad_sequence(features, batch_first=True), "region_mask": mask}
    if boxes:
        if [len(box) for box in boxes] != lengths.tolist():
            raise ValueError(
                f"Every example needs one box per region: {lengths.tolist()} regions, {[len(box) for box in boxes]} "
                "boxes."
            )
        padded = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)
        if padded.numel() and (padded.min() < 0 or padded.max() > 1 + 1e-4):
            raise ValueError(
                f"region_boxes must be xyxy in [0, 1], found values up to {padded.max():.1f}. Divide pixel boxes by "
                "(width, height, width, height)."
            )
        batch["region_boxes"] = padded
    return batch


def negative_images(examples: Sequence[Example]) -> list[Example]:
    """Return the negative images of examples as examples with `image` and `image_id`, which may be `None`.

    Args:
        examples: Examples, maybe with `negative_images` and `negative_image_ids`.

    Raises:
        ValueError: When examples of regions have negative images.
    """
    negatives: list[Example] = []
    for example in examples:
        images = example.get("negative_images") or []
        if images and example.get("region_features") is not None:
            raise ValueError("negative_images need examples with 'image', found 'region_features'. Leave one out.")
        ids = example.get("negative_image_ids") or [None] * len(images)
        negatives += [{"image": image, "image_id": ids[number]} for number, image in enumerate(images)]
    return negatives


def image_id_tensor(examples: Sequence[Example]) -> Tensor:
    """Return photo ids as (B,) int64; examples without one get an id that equals no other.

    Args:
        examples: B examples with an optional `image_id` (str or int).
    """
    ids = [
        stable_id(str(example["image_id"])) if example.get("image_id") is not None else -1 - row
        for row, example in enumerate(examples)
    ]
    return torch.tensor(ids, dtype=torch.int64)


def stable_id(text: str) -> int:
    """Return a non-negative 63-bit id of a text, the same on every machine and in every process.

    Args:
        text: Photo id or caption.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def normalise_caption(text: str) -> str:
    """Return a caption in the form in which two captions count as equal: case, spacing and end stop do not matter.

    Args:
        text: Caption.

    Example:
        >>> normalise_caption(" A dog  runs .")
        'a dog runs'
    """
    return " ".join(text.casefold().split()).rstrip(" .!")


def _as_tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values)).float()
