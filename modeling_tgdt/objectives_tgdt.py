# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the CMC loss reads, embeddings of pairs, and its objectives: similarities both ways, and who is a negative."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


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


Number = float | Tensor  # a tensor where it is learned


class Directions(NamedTuple):
    """One matrix per direction of retrieval, whose diagonal holds the B pairs.

    Attributes:
        i2t: Images of the pairs by all captions (B, Bt).
        t2i: Captions of the pairs by all images (B, Bi).
    """

    i2t: Tensor
    t2i: Tensor


def both_ways(square: Tensor) -> Directions:
    """Return the directions of B pairs without further negatives, from images by captions (B, B)."""
    return Directions(square, square.T)


def negative_masks(
    sizes: PairSizes, image_ids: Tensor | None, caption_ids: Tensor | None, device: torch.device
) -> Directions:
    """Return the boolean masks of what counts as a negative: another photo, and a caption of another text.

    Args:
        sizes: B, Bi and Bt.
        image_ids: Integers (Bi,), or `None` when every image is a photo of its own.
        caption_ids: Integers (Bt,), or `None` when every caption is a text of its own.
        device: Where the masks live.
    """
    count = sizes.pairs
    i2t = torch.ones(count, sizes.texts, dtype=torch.bool, device=device).fill_diagonal_(False)
    t2i = torch.ones(count, sizes.images, dtype=torch.bool, device=device).fill_diagonal_(False)
    # Among the pairs both kinds of id speak for both directions; beyond them an image has no text, a text no photo.
    for ids, of_columns, of_rows in ((image_ids, t2i, i2t), (caption_ids, i2t, t2i)):
        if ids is not None:
            ids = ids.to(device)
            differs = ids[:count, None] != ids[None]  # (B, Bi) or (B, Bt)
            of_columns &= differs
            of_rows[:, :count] &= differs[:, :count]
    return Directions(i2t, t2i)


def hinge(similarity: Directions, negatives: Directions, margin: float, hardest: bool) -> Tensor:
    """Return the bidirectional hinge (paper, Eq. 8; reference `models/loss.py`), summed over the batch.

    Args:
        similarity: Similarities.
        negatives: Boolean masks.
        margin: Required distance of a negative from its positive.
        hardest: Keep the largest violation of each query, or all.
    """
    total = similarity.i2t.new_zeros(())
    for scores, mask in zip(similarity, negatives, strict=True):
        costs = (margin + scores - scores.diagonal()[:, None]).clamp(min=0).masked_fill(~mask, 0)
        total = total + (costs.max(1).values.sum() if hardest else costs.sum())
    return total


def hardest_pairs(similarity: Directions, negatives: Directions) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 3B pairs that a hardest-negative hinge depends on.

    Args:
        similarity: Similarities.
        negatives: Boolean masks.

    Returns:
        Image rows (3B,) and caption rows (3B,): the positives, each image's hardest caption, each caption's hardest
        image; and 1 or 0 (2, B) by whether the image, and the caption, has any negative.
    """
    lowest = torch.finfo(similarity.i2t.dtype).min
    caption, image = (
        scores.masked_fill(~mask, lowest).argmax(1) for scores, mask in zip(similarity, negatives, strict=True)
    )
    index = torch.arange(len(caption), device=caption.device)
    has_negative = torch.stack([mask.any(1) for mask in negatives]).to(similarity.i2t.dtype)
    return torch.cat([index, index, image]), torch.cat([index, caption, index]), has_negative


def infonce(similarity: Directions, negatives: Directions, temperature: Number) -> Tensor:
    """Return the symmetric softmax cross-entropy (CLIP), averaged over queries and directions.

    Args:
        similarity: Similarities.
        negatives: Boolean masks; other pairs off the diagonal take no part.
        temperature: Divides the similarities.
    """
    losses = []
    for scores, mask in zip(similarity, negatives, strict=True):
        ignored = (~mask).fill_diagonal_(False)
        logits = (scores / temperature).masked_fill(ignored, torch.finfo(scores.dtype).min)
        losses.append(F.cross_entropy(logits, torch.arange(len(logits), device=logits.device)))
    return (losses[0] + losses[1]) / 2


def sigmoid(similarity: Directions, negatives: Directions, temperature: Number, bias: Number) -> Tensor:
    """Return the pairwise sigmoid loss (SigLIP), summed over image-caption pairs and averaged over the B pairs.

    Args:
        similarity: Similarities.
        negatives: Boolean masks; other pairs off the diagonal take no part.
        temperature: Divides the similarities.
        bias: Added to the logits.
    """
    count = len(similarity.i2t)
    positives = torch.eye(*similarity.i2t.shape, dtype=torch.bool, device=similarity.i2t.device)
    logits = similarity.i2t / temperature + bias
    costs = -F.logsigmoid(torch.where(positives, logits, -logits))
    total = costs.masked_fill(~(positives | negatives.i2t), 0).sum()
    beyond = similarity.t2i[:, count:] / temperature + bias  # the pairs themselves are counted above
    return (total - F.logsigmoid(-beyond).masked_fill(~negatives.t2i[:, count:], 0).sum()) / count


def distillation(teacher: Directions, student: Directions, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's ranking distribution, over both directions.

    Args:
        teacher: Token similarities; no gradient flows into them.
        student: Global similarities.
        temperature: Divides both.
    """
    total = student.i2t.new_zeros(())
    for wanted, given in zip(teacher, student, strict=True):
        target = (wanted.detach() / temperature).log_softmax(1)
        total = total + F.kl_div((given / temperature).log_softmax(1), target, log_target=True, reduction="sum")
    return total / (2 * len(student.i2t))


def intra_modal_consistency(image_embeds: Tensor, text_embeds: Tensor, margin: float) -> Tensor:
    """Return by how much image-image and caption-caption similarities disagree (paper, Eq. 10), summed over rows.

    Each row counts its largest |caption similarity - image similarity| beyond `margin`. Pairs of one photo count like
    all others: they are not negatives here, their captions are asked to be as alike as the photo is to itself.

    Args:
        image_embeds: Global image embeddings (B, D).
        text_embeds: Global caption embeddings (B, D).
        margin: Slack.
    """
    gap = (dot_products(text_embeds, text_embeds) - dot_products(image_embeds, image_embeds)).abs()
    return (gap.max(1).values - margin).clamp(min=0).sum()


def dot_products(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right.T in at least float32, whatever autocast says: ranking needs the bits."""
    dtype = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return left.to(dtype) @ right.to(dtype).T


__all__ = [
    "Directions",
    "Number",
    "PairEmbeddings",
    "PairSizes",
    "both_ways",
    "distillation",
    "hardest_pairs",
    "hinge",
    "infonce",
    "intra_modal_consistency",
    "negative_masks",
    "sigmoid",
]
