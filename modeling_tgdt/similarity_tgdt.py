# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Token similarity: for every word the best region's dot product, summed or averaged over words (paper, Eq. 6-7).

Both kernels remember which region won and nothing else, so that neither the B x B x R x W products nor expanded copies
of the embeddings stay alive: memory is that of the inputs, their gradients and one byte or two per (image, word) pair.
On NVIDIA devices of compute capability 8.0 and newer, Triton kernels compute all pairs and their gradients. Each is
tried once per dtype on numbers whose results are exact; PyTorch does the work where that fails, where the package
triton or the C compiler that it needs is missing, and where the environment says `TGDT_TRITON=0`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.utils import logging
from transformers.utils.import_utils import is_torchdynamo_exporting

Reduction = Literal["sum", "mean"]

# Elements of the largest temporary of one chunk: 4 Mi float32 are 16 MiB.
_CHUNK_ELEMENTS = 1 << 22
CHECK_DIM = 24  # of the tokens that the Triton kernels are tried on

logger = logging.get_logger(__name__)


def mixed_score(global_score: Any, local_score: Any, global_weight: float, local_weight: float) -> Any:
    """Return `global_weight * S_global + local_weight * S_local`, by which all is ranked (paper, section III-D).

    Args:
        global_score: Dot products of global embeddings: a number, an array or a tensor.
        local_score: Token similarities of the same pairs.
        global_weight: Weight of the global score.
        local_weight: Weight of the local score.

    Example:
        >>> mixed_score(0.5, 0.25, 1.0, 2.0)
        1.0
    """
    return global_weight * global_score + local_weight * local_score


def truncate(embeds: Tensor, dim: int) -> Tensor:
    """Cut global embeddings and bring them back to unit length (Matryoshka embeddings, arXiv 2205.13147).

    Args:
        embeds: (N, D).
        dim: How many numbers to keep, the first ones.

    Returns:
        (N, dim), in at least float32.

    Example:
        >>> truncate(torch.tensor([[3.0, 4.0, 12.0]]), 2)
        tensor([[0.6000, 0.8000]])
    """
    kept = embeds[:, :dim].to(torch.promote_types(embeds.dtype, torch.float32))
    return torch.nn.functional.normalize(kept, dim=-1)


@dataclass(frozen=True)
class ScoreConfig:
    """How a score is mixed, for whatever ranks outside the model: galleries and evaluations.

    Attributes:
        global_weight: Weight of the global cosine.
        local_weight: Weight of the token similarity.
        reduction: `"mean"` or `"sum"` over words.
        scale: Factor of the token similarity.
    """

    global_weight: float = 1.0
    local_weight: float = 1.0
    reduction: Reduction = "mean"
    scale: float = 1.0

    @classmethod
    def of_model(cls, config: Any) -> "ScoreConfig":
        """Read the weights from a model configuration.

        Args:
            config: TGDTConfig.
        """
        return cls(
            float(config.global_score_weight),
            float(config.local_score_weight),
            config.similarity_reduction,
            float(config.similarity_scale),
        )

    def only(self, part: Literal["global", "local"]) -> "ScoreConfig":
        """Return the same with one part switched off.

        Args:
            part: The part that stays, with weight 1.
        """
        return replace(self, global_weight=float(part == "global"), local_weight=float(part == "local"))

    def local(self, sums: Any, words: Any) -> Any:
        """Turn sums over words into local scores.

        Args:
            sums: (P,) float32, of each pair over its words the best region's dot product.
            words: (P,) int64, how many words each pair has.

        Returns:
            (P,) float32: the mean or the sum, times the scale.
        """
        counts = np.maximum(words, 1).astype(np.float32)
        return (sums / counts if self.reduction == "mean" else sums) * np.float32(self.scale)

    def mixed(self, global_scores: Any, local_scores: Any) -> Any:
        """Return the mixed scores of pairs; see `mixed_score`."""
        return mixed_score(global_scores, local_scores, self.global_weight, self.local_weight)


def token_similarity(
    image_tokens: Tensor,
    text_tokens: Tensor,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    *,
    reduction: Reduction = "sum",
    scale: float = 1.0,
) -> Tensor:
    """Score every image against every caption by their tokens.

    Args:
        image_tokens: Region embeddings (Bi, R, D).
        text_tokens: Word embeddings (Bt, W, D).
        image_mask: Boolean (Bi, R), true for real regions; all real when omitted. An image without any scores 0.
        text_mask: Boolean (Bt, W), true for real words; all real when omitted. A caption without any scores 0.
        reduction: `"sum"` over words (reference) or `"mean"`, which does not favour long captions.
        scale: Factor of the result; the reference uses 10.

    Returns:
        Similarities (Bi, Bt) in at least float32, differentiable in both token tensors.

    Raises:
        ValueError: When shapes do not fit together or `reduction` is unknown.

    Example:
        >>> import torch
        >>> token_similarity(torch.eye(2)[None], torch.eye(2)[None, :1]).tolist()
        [[1.0]]
    """
    image_mask, text_mask = _check_tokens(image_tokens, text_tokens, image_mask, text_mask)
    weights = word_weights(text_mask, reduction, scale, _score_dtype(image_tokens))
    if is_torchdynamo_exporting():  # the loop over chunks would tie the graph to the example's sizes
        return _score_at_once(image_tokens, text_tokens, image_mask, weights)
    return _AllPairs.apply(image_tokens, text_tokens, image_mask, weights)


def token_similarity_pairs(
    image_tokens: Tensor,
    text_tokens: Tensor,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    *,
    image_index: Tensor | None = None,
    text_index: Tensor | None = None,
    reduction: Reduction = "sum",
    scale: float = 1.0,
) -> Tensor:
    """Score chosen (image, caption) pairs by their tokens.

    Without indices the rows are aligned: image p with caption p. With them, pair p is image `image_index[p]` with
    caption `text_index[p]`, and no row is copied.

    Args:
        image_tokens: Region embeddings (Bi, R, D).
        text_tokens: Word embeddings (Bt, W, D).
        image_mask: Boolean (Bi, R).
        text_mask: Boolean (Bt, W).
        image_index: Integers (P,), rows of the images.
        text_index: Integers (P,), rows of the captions.
        reduction: As in [`token_similarity`].
        scale: As in [`token_similarity`].

    Returns:
        Similarities (P,) in at least float32, differentiable in both token tensors.

    Raises:
        ValueError: When shapes or indices do not fit together.
    """
    image_mask, text_mask = _check_tokens(image_tokens, text_tokens, image_mask, text_mask)
    image_index = torch.arange(len(image_tokens), device=image_tokens.device) if image_index is None else image_index
    text_index = torch.arange(len(text_tokens), device=text_tokens.device) if text_index is None else text_index
    if image_index.shape != text_index.shape:
        raise ValueError(
            f"Pairs need one image and one caption each: found {image_index.numel()} images and "
            f"{text_index.numel()} captions. Pass image_index and text_index of one length, or aligned rows."
        )
    weights = word_weights(text_mask, reduction, scale, _score_dtype(image_tokens))
    return _Pairs.apply(image_tokens, text_tokens, image_mask, weights, image_index, text_index)


def word_weights(text_mask: Tensor, reduction: Reduction, scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what each word counts in the similarity, (Bt, W): 0 for padding.

    Args:
        text_mask: Boolean (Bt, W).
        reduction: `"sum"` or `"mean"`.
        scale: Factor of the similarity.
        dtype: Data type of the result, that of the scores.

    Raises:
        ValueError: When `reduction` is unknown.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', found {reduction!r}.")
    weights = text_mask.to(dtype) * scale
    return weights / text_mask.sum(-1, keepdim=True).clamp(min=1) if reduction == "mean" else weights


def _check_tokens(
    image_tokens: Tensor, text_tokens: Tensor, image_mask: Tensor | None, text_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    if image_tokens.ndim != 3 or text_tokens.ndim != 3 or image_tokens.shape[-1] != text_tokens.shape[-1]:
        raise ValueError(
            "Expected image tokens (Bi, R, D) and text tokens (Bt, W, D) of one width D, found "
            f"{tuple(image_tokens.shape)} and {tuple(text_tokens.shape)}."
        )
    masks = []
    for name, tokens, mask in (("image_mask", image_tokens, image_mask), ("text_mask", text_tokens, text_mask)):
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if mask.shape != tokens.shape[:2]:
            raise ValueError(f"{name} must have shape {tuple(tokens.shape[:2])}, found {tuple(mask.shape)}.")
        masks.append(mask.bool())
    return masks[0], masks[1]


def _index_dtype(regions: int) -> torch.dtype:
    return torch.uint8 if regions <= 256 else torch.int16 if regions <= 1 << 15 else torch.int32


def _score_dtype(tokens: Tensor) -> torch.dtype:
    return torch.promote_types(tokens.dtype, torch.float32)


def _chunks(total: int, cost: int) -> Iterator[slice]:
    """Yield slices of `range(total)` whose items of `cost` elements each fit one chunk; none for empty items."""
    size = max(1, _CHUNK_ELEMENTS // max(cost, 1))
    for start in range(0, total if cost else 0, size):
        yield slice(start, min(start + size, total))


def _best_region(products: Tensor, image_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest product over regions (dim 1) and its index; images without regions give 0."""
    lowest = torch.finfo(products.dtype).min
    best, winner = products.masked_fill_(~image_mask[..., None], lowest).max(dim=1)
    return best.masked_fill_(~image_mask.any(1)[:, None], 0.0), winner


class _AllPairs(torch.autograd.Function):
    """All-pairs similarity that keeps the winning region of every (image, word) for its backward pass."""

    @staticmethod
    def forward(ctx: Any, image_tokens: Tensor, text_tokens: Tensor, image_mask: Tensor, weights: Tensor) -> Tensor:
        (images, regions, _), words = image_tokens.shape, text_tokens.flatten(0, 1)
        winners = torch.zeros(images, len(words), dtype=_index_dtype(regions), device=image_tokens.device)
        ctx.triton = image_tokens.dtype == words.dtype and triton_trains(words.device, words.dtype)
        ctx.save_for_backward(image_tokens, text_tokens, image_mask, weights, winners)
        if not ctx.triton:
            return _score_in_chunks(image_tokens, words, image_mask, weights, winners)
        from .triton_similarity_tgdt import best_regions

        best = best_regions(image_tokens, words, image_mask, winners)
        return (best.view(images, *weights.shape) * weights).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image_tokens, text_tokens, image_mask, weights, winners = ctx.saved_tensors
        words, grad = text_tokens.flatten(0, 1), (grad * image_mask.any(1)[:, None]).contiguous()
        if ctx.triton:
            from .triton_similarity_tgdt import image_gradients, word_gradients

            grad_images = image_gradients(grad, weights, winners, words, image_tokens)
            grad_words = word_gradients(grad, weights, winners, image_tokens)
        else:
            grad_images, grad_words = _route_in_chunks(grad, weights, winners, words, image_tokens)
        return grad_images, grad_words.view_as(text_tokens), None, None


def _score_at_once(images: Tensor, texts: Tensor, image_mask: Tensor, weights: Tensor) -> Tensor:
    products = torch.einsum("ird,twd->irtw", images, texts)
    best, _ = _best_region(products.flatten(2), image_mask)
    return (best.unflatten(1, weights.shape) * weights).sum(-1)


def _score_in_chunks(images: Tensor, words: Tensor, image_mask: Tensor, weights: Tensor, winners: Tensor) -> Tensor:
    count, regions, dim = images.shape
    scores = images.new_zeros(count, len(weights), dtype=_score_dtype(images))
    with torch.autocast(images.device.type, enabled=False):
        for rows in _chunks(count, regions * len(words)):
            products = (images[rows].reshape(-1, dim) @ words.T).view(-1, regions, len(words))
            best, winner = _best_region(products, image_mask[rows])
            scores[rows] = (best.view(-1, *weights.shape) * weights).sum(-1)
            winners[rows] = winner.to(winners.dtype)
    return scores


def _route_in_chunks(
    grad: Tensor, weights: Tensor, winners: Tensor, words: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of images and words: what a word counts goes to the region that won, and back."""
    count, regions, dim = images.shape
    grad_images, grad_words = images.new_zeros(images.shape), words.new_zeros(words.shape)
    for rows in _chunks(count, regions * len(words)):
        per_word = (grad[rows, :, None] * weights).view(-1, 1, len(words)).to(words.dtype)
        routed = per_word.new_zeros(per_word.shape[0], regions, len(words))
        routed.scatter_(1, winners[rows].long()[:, None], per_word)
        routed = routed.view(-1, len(words))
        grad_images[rows] = (routed @ words).view(-1, regions, dim)
        grad_words += routed.T @ images[rows].reshape(-1, dim)
    return grad_images, grad_words


class _Pairs(torch.autograd.Function):
    """Similarity of P chosen pairs; rows are read by index and gradients are added by index."""

    @staticmethod
    def forward(
        ctx: Any,
        image_tokens: Tensor,
        text_tokens: Tensor,
        image_mask: Tensor,
        weights: Tensor,
        image_index: Tensor,
        text_index: Tensor,
    ) -> Tensor:
        (_, regions, dim), words = image_tokens.shape, text_tokens.shape[1]
        pairs = len(image_index)
        scores = image_tokens.new_zeros(pairs, dtype=_score_dtype(image_tokens))
        winners = torch.zeros(pairs, words, dtype=_index_dtype(regions), device=image_tokens.device)
        with torch.autocast(image_tokens.device.type, enabled=False):
            for rows in _chunks(pairs if regions * words else 0, (regions + words) * dim):
                image, text = image_index[rows], text_index[rows]
                products = torch.bmm(image_tokens[image], text_tokens[text].transpose(1, 2))
                best, winner = _best_region(products, image_mask[image])
                scores[rows] = (best * weights[text]).sum(-1)
                winners[rows] = winner.to(winners.dtype)
        ctx.save_for_backward(image_tokens, text_tokens, image_mask, weights, image_index, text_index, winners)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image_tokens, text_tokens, image_mask, weights, image_index, text_index, winners = ctx.saved_tensors
        (_, regions, dim), words = image_tokens.shape, text_tokens.shape[1]
        flat_images = image_tokens.reshape(-1, dim)
        grad_images, grad_texts = flat_images.new_zeros(flat_images.shape), text_tokens.new_zeros(text_tokens.shape)
        grad = grad * image_mask.any(1)[image_index]
        for rows in _chunks(len(image_index) if regions * words else 0, (regions + words) * dim):
            image, text = image_index[rows], text_index[rows]
            per_word = (grad[rows, None] * weights[text])[..., None].to(text_tokens.dtype)
            region = (image[:, None] * regions + winners[rows].long()).view(-1)  # row in flat_images
            grad_images.index_add_(0, region, (per_word * text_tokens[text]).view(-1, dim))
            grad_texts.index_add_(0, text, per_word * flat_images[region].view(-1, words, dim))
        return grad_images.view_as(image_tokens), grad_texts, None, None, None, None


def triton_trains(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether the kernels of `triton_similarity_tgdt` work for tokens of `dtype` there."""
    known = dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and may_use_triton(device) and passes(_check_similarity, device, dtype)


def may_use_triton(device: torch.device) -> bool:
    """Say whether a device is one that Triton kernels are tried on."""
    if device.type != "cuda" or torch.compiler.is_compiling() or os.environ.get("TGDT_TRITON") == "0":
        return False
    return _is_capable(device)


@cache
def _is_capable(device: torch.device) -> bool:
    nvidia = torch.version.hip is None and find_spec("triton") is not None
    return nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def passes(check: Callable[[torch.device, torch.dtype], bool], device: torch.device, dtype: torch.dtype) -> bool:
    """Run a check of kernels once per device and dtype; warn where it fails."""
    try:
        reason = "" if check(device, dtype) else "their results are wrong"
    except Exception as error:  # whatever a compiler that was never seen here raises
        reason = f"{type(error).__name__}: {error}"
    if reason:
        logger.warning(
            "The Triton kernels do not work for %s on %s, PyTorch computes instead: %s. TGDT_TRITON=0 in the "
            "environment turns them off without this warning.",
            dtype,
            device,
            reason,
        )
    return not reason


def integers(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers from -5 to 5, whose products and sums are exact in every dtype."""
    return (torch.arange(prod(shape), device=device) * 7 % 11 - 5).view(shape).to(dtype)


def _check_similarity(device: torch.device, dtype: torch.dtype) -> bool:
    from .triton_similarity_tgdt import best_regions, image_gradients, word_gradients

    images, words = (integers(*shape, CHECK_DIM, device=device, dtype=dtype) for shape in ((3, 20), (10,)))
    mask = torch.arange(20, device=device) < torch.tensor([[20], [7], [0]], device=device)
    winners = torch.zeros(3, 10, dtype=torch.uint8, device=device)
    best = best_regions(images, words, mask, winners)
    dots = (images.double() @ words.double().T).masked_fill(~mask[..., None], 0)
    won = winners.long()[:, None]
    computed = [best.double(), dots.gather(1, won)[:, 0]]
    expected = [dots.masked_fill(~mask[..., None], -torch.inf).amax(1).masked_fill(~mask.any(1)[:, None], 0)] * 2

    grad = torch.tensor([[1.0, -1.0], [2.0, 1.0], [0.0, 0.0]], dtype=torch.float32, device=device)
    weights = torch.ones(2, 5, dtype=torch.float32, device=device)
    routed = torch.zeros_like(dots).scatter_(1, won, grad.double().repeat_interleave(5, 1)[:, None])
    computed.append(image_gradients(grad, weights, winners, words, images).double())
    computed.append(word_gradients(grad, weights, winners, images).double())
    expected += [routed @ words.double(), torch.einsum("brn,brd->nd", routed, images.double())]
    return all(map(torch.equal, computed, expected))


__all__ = ["Reduction", "token_similarity", "token_similarity_pairs", "truncate", "word_weights"]
