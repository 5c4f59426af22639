# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings of one batch as the loss reads them: aligned pairs, and hard negatives after them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass
class PairEmbeddings:
    """Embeddings of B aligned (image, caption) pairs, then of hard negatives that belong to no pair.

    Bi - B images and Bt - B captions may follow the pairs: further captions that every image of a pair is ranked
    against, further images that every caption of a pair is ranked against.

    Attributes:
        image_embeds: Global image embeddings (Bi, D).
        text_embeds: Global caption embeddings (Bt, D).
        image_tokens: Region embeddings (Bi, R, D).
        text_tokens: Word embeddings (Bt, W, D).
        image_mask: Boolean (Bi, R).
        text_mask: Boolean (Bt, W).
        image_ids: Integers (Bi,), equal for images of one photo; `None` when every image is a photo of its own.
        caption_ids: Integers (Bt,), equal for captions of one text; `None` when every caption is a text of its own.
        logit_scales: Learned log scales and biases, once per caption (Bt, 2 or 4), see [`LogitScales`]; `None` where
            they are fixed.
        num_pairs: B; `None` when all rows are pairs.
    """

    # What is missing is an error of the loss only where a term needs it, so these are typed without the `None`.
    image_embeds: Any = None
    text_embeds: Any = None
    image_tokens: Any = None
    text_tokens: Any = None
    image_mask: Any = None
    text_mask: Any = None
    image_ids: Tensor | None = None
    caption_ids: Tensor | None = None
    logit_scales: Tensor | None = None
    num_pairs: int | None = None

    @classmethod
    def of(cls, outputs: Any, **names: Any) -> PairEmbeddings:
        """Take the embeddings out of a TGDTOutput.

        Args:
            outputs: The output.
            **names: `image_ids`, `caption_ids` and `num_pairs`.
        """
        return cls(
            outputs.image_embeds,
            outputs.text_embeds,
            outputs.image_token_embeds,
            outputs.text_token_embeds,
            outputs.image_token_mask,
            outputs.text_token_mask,
            logit_scales=outputs.logit_scales,
            **names,
        )

    @classmethod
    def cat(cls, parts: list[PairEmbeddings]) -> PairEmbeddings:
        """Join parts of one batch, padding regions and words to the widest; `num_pairs` is that of the batch."""
        columns: dict[str, Any] = {
            name: torch.cat(_pad_to_widest([part.tensors()[name] for part in parts])) for name in parts[0].tensors()
        }
        return cls(**columns, num_pairs=parts[0].num_pairs)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def differentiable(self) -> dict[str, Tensor]:
        """Return what carries gradients: the embeddings proper and learned scales; masks and ids do not."""
        return {name: value for name, value in self.tensors().items() if value.is_floating_point()}

    def detached(self) -> PairEmbeddings:
        """Return new leaves that gather a gradient of their own."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.differentiable().items()}
        return PairEmbeddings(**{**self.tensors(), **leaves}, num_pairs=self.num_pairs)

    def sizes(self) -> PairSizes:
        """Return how many pairs, images and captions there are.

        Raises:
            ValueError: When tensors of one side have different lengths, or the sides do not line up.
        """
        given = {name: len(value) for name, value in self.tensors().items()}
        images = {name: size for name, size in given.items() if name.startswith("image_")}
        texts = {name: size for name, size in given.items() if not name.startswith("image_")}
        found = f"found {given}" + ("." if self.num_pairs is None else f" and num_pairs={self.num_pairs}.")
        if len(set(images.values())) > 1 or len(set(texts.values())) > 1:
            raise ValueError(f"The loss compares aligned pairs: batch sizes must be equal on each side, {found}")
        both = [*images.values()][:1] + [*texts.values()][:1]
        if self.num_pairs is None and len(set(both)) > 1:
            raise ValueError(
                f"The loss compares aligned pairs: batch sizes must be equal, {found} Pass num_pairs when rows beyond "
                "the pairs are hard negatives."
            )
        pairs = both[0] if self.num_pairs is None else self.num_pairs
        if not 0 < pairs <= min(both):
            raise ValueError(f"num_pairs must be between 1 and the rows of either side, {found}")
        return PairSizes(pairs, both[0], both[-1])


class PairSizes(NamedTuple):
    """Rows of a batch: aligned pairs, and all images and captions."""

    pairs: int
    images: int
    texts: int


def _pad_to_widest(tensors: list[Tensor]) -> list[Tensor]:
    if tensors[0].ndim < 2:
        return tensors
    width = max(tensor.shape[1] for tensor in tensors)
    return [
        torch.cat([tensor, tensor.new_zeros(tensor.shape[0], width - tensor.shape[1], *tensor.shape[2:])], dim=1)
        for tensor in tensors
    ]


__all__ = ["PairEmbeddings", "PairSizes"]
