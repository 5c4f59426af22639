# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Start the two projections where pretrained backbones already agree, by canonical correlation analysis.

New projections know nothing of each other, and thousands of steps go into finding the directions that pictures and
captions share. For what the backbones give as it is, those directions have a closed form (regularised CCA, Hotelling
1936): one pass over the training photos and a few factorisations replace those steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modeling_tgdt.modeling_tgdt import TGDTFeatures

from ..scoring.encoding import EncodeOptions, encode_dataset

# Ridge of both covariances, in units of their mean eigenvalue. Pictures have many weak directions that are noise.
_IMAGE_RIDGE, _TEXT_RIDGE = 1.0, 0.3


def warm_start(model: Any, processor: Any, dataset: Any, options: EncodeOptions | None = None) -> Tensor:
    """Set `visual_projection` and `text_projection` to the directions that photos and captions share.

    What counts is the input of the global slots: the mean of a photo's regions, and a caption's first position or mean
    (`text_global_token`). A photo stands for the mean of its captions.

    Args:
        model: TGDTModel; only the two projections change.
        processor: TGDTProcessor.
        dataset: Training photos, as [`load_captions`] returns them, or with cached tokens.
        options: Batch size, workers, policy for broken pictures, progress bars.

    Returns:
        Canonical correlations of the directions, largest first: (n,), n the smaller of `projection_dim`, the widths
        of both backbones.

    Raises:
        ValueError: When the image slot is zeros, or fewer than two photos have captions.
    """
    if model.config.image_global_token != "mean":
        raise ValueError("A warm start needs image_global_token='mean': a slot of zeros says nothing of the photo.")
    options = replace(options or EncodeOptions(), tokens=False)
    slots = encode_dataset(_SlotInputs(model), processor, dataset, options)
    images, texts = slots.image_embeds.double(), slots.text_embeds.double()
    captions = torch.zeros(len(images), texts.shape[1], dtype=texts.dtype)
    captions.index_add_(0, slots.text_to_image, texts)
    captions /= torch.bincount(slots.text_to_image, minlength=len(images)).clamp(min=1)[:, None]
    if len(images) < 2:
        raise ValueError(f"A warm start compares photos: expected at least 2, found {len(images)}.")
    to_image, to_text, correlations = canonical_directions(images, captions, texts, model.config.projection_dim)
    _set_projection(model.visual_projection, to_image, images)
    _set_projection(model.text_projection, to_text, texts)
    return correlations.float()


def canonical_directions(images: Tensor, captions: Tensor, texts: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the directions of regularised CCA, each scaled by its correlation.

    Args:
        images: Photos (N, F).
        captions: Mean caption of each photo (N, H).
        texts: All captions (T, H), for their covariance.
        dim: Directions that are wanted.

    Returns:
        Maps (F, n) and (H, n) and correlations (n,), n the smallest of `dim`, F and H.
    """
    image_factor = _factor(images, _IMAGE_RIDGE)
    text_factor = _factor(texts, _TEXT_RIDGE)
    shared = (images - images.mean(0)).T @ (captions - texts.mean(0)) / len(images)
    whitened = torch.linalg.solve_triangular(image_factor, shared, upper=False)
    whitened = torch.linalg.solve_triangular(text_factor, whitened.T, upper=False).T
    left, correlations, right = torch.linalg.svd(whitened, full_matrices=False)
    scale = correlations[:dim]
    to_image = torch.linalg.solve_triangular(image_factor.T, left[:, :dim], upper=True) * scale
    to_text = torch.linalg.solve_triangular(text_factor.T, right[:dim].T, upper=True) * scale
    return to_image, to_text, scale


def _factor(rows: Tensor, ridge: float) -> Tensor:
    """Return the Cholesky factor of the rows' covariance with a ridge."""
    covariance = torch.cov(rows.T, correction=0)
    return torch.linalg.cholesky(covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance)))


@torch.no_grad()
def _set_projection(projection: nn.Linear, directions: Tensor, rows: Tensor) -> None:
    """Project centred rows onto the directions, at a mean square of 1; outputs beyond them stay 0."""
    mean = rows.mean(0)
    gain = 1 / ((rows - mean) @ directions).square().mean().sqrt().clamp(min=1e-12)
    weight = torch.zeros_like(projection.weight, dtype=rows.dtype, device="cpu")
    weight[: directions.shape[1]] = (directions * gain).T
    projection.weight.copy_(weight)
    projection.bias.copy_(-weight @ mean)


class _SlotInputs:
    """Stands in for a model whose global embeddings are what goes into the projections at the global slots."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device, self.training = model.device, model.training
        self.eval, self.train = model.eval, model.train

    def get_image_features(self, **inputs: Tensor) -> TGDTFeatures:
        hidden = self._input_of("visual_projection", self._model.get_image_features, inputs)
        return TGDTFeatures(pooler_output=hidden[:, 0])

    def get_text_features(self, **inputs: Tensor) -> TGDTFeatures:
        hidden = self._input_of("text_projection", self._model.get_text_features, inputs)
        if self._model.config.text_global_token == "mean":
            return TGDTFeatures(pooler_output=hidden[:, 0])
        first = inputs["attention_mask"].int().argmax(-1)
        return TGDTFeatures(pooler_output=hidden[torch.arange(len(hidden)), first])

    def _input_of(self, name: str, features_of: Any, inputs: dict[str, Tensor]) -> Tensor:
        found: list[Tensor] = []
        hook = getattr(self._model, name).register_forward_pre_hook(lambda _, given: found.append(given[0]))
        try:
            features_of(**inputs)
        finally:
            hook.remove()
        return found[0]
