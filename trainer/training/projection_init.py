# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Start the two projections where pretrained backbones already agree, by canonical correlation analysis.

New projections know nothing of each other, and thousands of steps go into finding the directions that pictures and
captions share. For what the backbones give as it is, those directions have a closed form (regularised CCA, Hotelling
1936): one pass over the training photos and a few factorisations replace those steps. How much the covariances are
regularised decides whether the directions hold for new photos, so that is chosen on photos that a fit has not seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from modeling_tgdt.modeling_tgdt import TGDTFeatures

from ..evaluation import retrieval_metrics
from ..scoring.embeddings import RetrievalEmbeddings
from ..scoring.encoding import EncodeOptions, encode_dataset

logger = logging.getLogger(__name__)

# Ridges of both covariances, in units of their mean eigenvalue; the fewer the photos, the larger the one that suits.
_IMAGE_RIDGES, _TEXT_RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0), (0.1, 0.3, 1.0, 3.0, 10.0)
_FOLDS, _RANKED_PHOTOS = 3, 500


@dataclass(frozen=True)
class Ridges:
    """How strongly the covariances of a warm start are regularised, in units of their mean eigenvalue.

    Attributes:
        image: Of the photos. They have many weak directions that are noise.
        text: Of the captions.
    """

    image: float
    text: float


def warm_start(
    model: Any, processor: Any, dataset: Any, options: EncodeOptions | None = None, *, ridges: Ridges | None = None
) -> Tensor:
    """Set the projections to the directions that photos and captions share.

    What counts is the input of the global slots: the mean of a photo's regions (with `image_global_token="mean_max"`
    their maximum, too), and a caption's first position or mean (`text_global_token`). A photo stands for the mean of
    its captions. Where the slot has a projection of its own, a regression onto the same directions sets the regions'.

    Args:
        model: TGDTModel; only its projections change.
        processor: TGDTProcessor.
        dataset: Training photos, as [`load_captions`] returns them, or with cached tokens.
        options: Batch size, workers, policy for broken pictures, progress bars.
        ridges: Regularisation of the fit. When omitted it is chosen: the one whose directions, fitted on two thirds of
            the photos, retrieve best among the last third, see [`choose_ridges`].

    Returns:
        Canonical correlations of the directions, largest first: (n,), n at most `projection_dim`, the widths of both
        backbones and the number of photos - 1. Outputs of the projections beyond n stay 0.

    Raises:
        ValueError: When a slot says nothing of its photo or caption, or fewer than two photos have captions.
    """
    if model.config.image_global_token not in ("mean", "mean_max"):
        raise ValueError(
            "A warm start needs image_global_token='mean' or 'mean_max': a slot of zeros says nothing of the photo."
        )
    options = replace(options or EncodeOptions(), tokens=False)
    slots = encode_dataset(_SlotInputs(model), processor, dataset, options)
    images, regions = slots.image_embeds.double().split([_slot_width(model), model.visual_projection.in_features], -1)
    slots = replace(slots, image_embeds=images, text_embeds=slots.text_embeds.double())
    _check(slots, model.config.text_global_token)
    ridges = choose_ridges(slots, model.config.projection_dim) if ridges is None else ridges
    to_image, to_text, correlations = canonical_directions(slots, model.config.projection_dim, ridges)
    if model.visual_global_projection is None:
        _set_projection(model.visual_projection, to_image, images)
    else:
        _set_projection(model.visual_global_projection, to_image, images)
        _set_projection(model.visual_projection, regression(slots, to_text, regions, ridges.image), regions)
    _set_projection(model.text_projection, to_text, slots.text_embeds)
    return correlations.float()


def choose_ridges(slots: RetrievalEmbeddings, dim: int) -> Ridges:
    """Return the ridges whose directions find the captions of photos that were not fitted, and the other way round.

    Three folds; the sum of recalls (global, both ways) of each fold's photos, at most 500, decides. Of equals the
    stronger is taken.

    Args:
        slots: Inputs of the global slots, float64.
        dim: Directions that are wanted.
    """
    count = len(slots.image_embeds)
    grid = [Ridges(image, text) for image, text in product(_IMAGE_RIDGES, _TEXT_RIDGES)]
    scores = torch.zeros(len(grid), dtype=torch.float64)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for held in shuffled.tensor_split(min(_FOLDS, count)):
        is_held = torch.zeros(count, dtype=torch.bool).index_fill_(0, held, True)
        fit = _CanonicalFit.of(slots.subset((~is_held).nonzero()[:, 0]))
        ranked = slots.subset(held[:_RANKED_PHOTOS].sort().values)
        scores += torch.tensor([_rsum(fit, ranked, dim, ridges) for ridges in grid], dtype=torch.float64)
    best = max(range(len(grid)), key=lambda number: (scores[number].item(), number))
    logger.info("Warm start of %d photos: %s, chosen on held-out photos.", count, grid[best])
    return grid[best]


def canonical_directions(slots: RetrievalEmbeddings, dim: int, ridges: Ridges) -> tuple[Tensor, Tensor, Tensor]:
    """Return the directions of regularised CCA, each scaled by its correlation.

    Args:
        slots: Photos (N, F) and captions (T, H) as `image_embeds` and `text_embeds`, float64.
        dim: Directions that are wanted.
        ridges: Regularisation of both sides.

    Returns:
        Maps (F, n) and (H, n) and correlations (n,), n at most `dim` and the ranks of both covariances.
    """
    return _CanonicalFit.of(slots).directions(dim, ridges)


@dataclass(frozen=True)
class _Spectrum:
    """Mean (F,), eigenvectors (F, r) and eigenvalues (r,) of the rows' covariance, and its mean eigenvalue."""

    mean: Tensor
    basis: Tensor
    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Spectrum:
        """Factorise the covariance, or of few rows their products: what lies outside them has no covariance."""
        centred = rows - rows.mean(0)
        if len(rows) < rows.shape[1]:
            values, vectors = torch.linalg.eigh(centred @ centred.T / len(rows))
            basis = centred.T @ vectors / (len(rows) * values).clamp(min=1e-300).sqrt()
        else:
            values, basis = torch.linalg.eigh(centred.T @ centred / len(rows))
        kept = values > values[-1] * 1e-12
        return cls(rows.mean(0), basis[:, kept], values[kept], values.sum() / rows.shape[1])

    def whitening(self, ridge: float) -> Tensor:
        """Return (r,) factors of the eigenvectors that make the covariance with a ridge the identity."""
        return (self.values + ridge * self.scale).rsqrt()


@dataclass(frozen=True)
class _CanonicalFit:
    """Everything of a fit that does not depend on the ridges; `shared` (r, s) is the covariance of both bases."""

    image: _Spectrum
    text: _Spectrum
    shared: Tensor

    @classmethod
    def of(cls, slots: RetrievalEmbeddings) -> _CanonicalFit:
        images = slots.image_embeds
        image, text = _Spectrum.of(images), _Spectrum.of(slots.text_embeds)
        captions = _captions(slots) - text.mean
        shared = image.basis.T @ ((images - image.mean).T @ captions / len(images)) @ text.basis
        return cls(image, text, shared)

    def directions(self, dim: int, ridges: Ridges) -> tuple[Tensor, Tensor, Tensor]:
        whiten_image, whiten_text = self.image.whitening(ridges.image), self.text.whitening(ridges.text)
        left, correlations, right = torch.linalg.svd(
            whiten_image[:, None] * self.shared * whiten_text, full_matrices=False
        )
        scale = correlations[:dim]
        to_image = self.image.basis @ (whiten_image[:, None] * left[:, :dim] * scale)
        to_text = self.text.basis @ (whiten_text[:, None] * right[:dim].T * scale)
        return to_image, to_text, scale


def regression(slots: RetrievalEmbeddings, to_text: Tensor, images: Tensor, ridge: float) -> Tensor:
    """Return the linear map of other inputs that comes closest to where the captions lie by their directions.

    Args:
        slots: Photos and captions, float64.
        to_text: Directions of the captions (H, n).
        images: The other inputs of the photos (N, F), float64.
        ridge: Regularisation, in units of the mean eigenvalue of their covariance.

    Returns:
        Map (F, n) of centred inputs.
    """
    captions = (_captions(slots) - slots.text_embeds.mean(0)) @ to_text
    spectrum = _Spectrum.of(images)
    shared = spectrum.basis.T @ ((images - spectrum.mean).T @ captions) / len(images)
    return spectrum.basis @ (spectrum.whitening(ridge).square()[:, None] * shared)


def _captions(slots: RetrievalEmbeddings) -> Tensor:
    """Return the mean of each photo's captions (N, H)."""
    texts, owners, count = slots.text_embeds, slots.text_to_image, len(slots.image_embeds)
    captions = torch.zeros(count, texts.shape[1], dtype=texts.dtype).index_add_(0, owners, texts)
    return captions / torch.bincount(owners, minlength=count).clamp(min=1)[:, None]


def _rsum(fit: _CanonicalFit, held: RetrievalEmbeddings, dim: int, ridges: Ridges) -> float:
    """Return the sum of recalls of photos that a fit has not seen."""
    to_image, to_text, _ = fit.directions(dim, ridges)
    images = nn.functional.normalize((held.image_embeds - fit.image.mean) @ to_image).float()
    texts = nn.functional.normalize((held.text_embeds - fit.text.mean) @ to_text).float()
    projected = RetrievalEmbeddings(images, texts, held.text_to_image)
    return retrieval_metrics(projected, modes=("global",))["global"]["rsum"]


def _check(slots: RetrievalEmbeddings, text_global_token: str) -> None:
    if len(slots.image_embeds) < 2:
        raise ValueError(f"A warm start compares photos: expected at least 2, found {len(slots.image_embeds)}.")
    if _is_constant(slots.image_embeds):
        raise ValueError("The vision backbone gives all photos the same features: check the pictures and its weights.")
    if _is_constant(slots.text_embeds):
        raise ValueError(
            f"With text_global_token={text_global_token!r} all captions look the same to the text backbone. Build the "
            "model with text_global_token='mean'."
        )


def _is_constant(rows: Tensor) -> bool:
    return bool((rows - rows[0]).abs().max() <= 1e-6 * rows.abs().max())


@torch.no_grad()
def _set_projection(projection: nn.Linear, directions: Tensor, rows: Tensor) -> None:
    """Project centred rows onto the directions, at a mean square of 1; outputs beyond them stay 0."""
    mean = rows.mean(0)
    gain = 1 / ((rows - mean) @ directions).square().mean().sqrt().clamp(min=1e-12)
    weight = torch.zeros_like(projection.weight, dtype=rows.dtype, device="cpu")
    weight[: directions.shape[1]] = (directions * gain).T
    projection.weight.copy_(weight)
    projection.bias.copy_(-weight @ mean)


def _slot_width(model: Any) -> int:
    """Return the width of what the photo's global slot is made of."""
    projection = model.visual_global_projection or model.visual_projection
    return int(projection.in_features)


def _boxes_add_a_constant(config: Any) -> bool:
    """Tell whether the slot's input at the regions' projection is the mean of the features, but for a constant.

    The features are taken there: the published models of Flickr8k were started without the constant.
    """
    return config.box_encoding in ("sum", "none") and not config.num_region_layers


class _SlotInputs:
    """Stands in for a model whose global embeddings are what goes into the projections at the global slots.

    Of a photo that is (F + R): the input of the slot's projection, and of the regions' projection at the slot.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        """Return everything else as the model has it."""
        return getattr(self._model, name)

    def get_image_features(self, **inputs: Tensor) -> TGDTFeatures:
        model = self._model
        names = ("visual_projection", "visual_global_projection")
        projections = [getattr(model, name) for name in names if getattr(model, name) is not None]
        region, *slots = (hidden[:, 0] for hidden in self._inputs_of(projections, model.get_image_features, inputs))
        slot = slots[0] if slots else region
        if slots and _boxes_add_a_constant(model.config):
            region = slot[:, : region.shape[1]]
        return TGDTFeatures(pooler_output=torch.cat([slot, region], dim=-1))

    def get_text_features(self, **inputs: Tensor) -> TGDTFeatures:
        (hidden,) = self._inputs_of([self._model.text_projection], self._model.get_text_features, inputs)
        source = self._model.config.text_global_token
        if source in ("mean", "pooled"):
            return TGDTFeatures(pooler_output=hidden[:, 0])
        attended = inputs["attention_mask"].int()
        slot = attended.argmax(-1) if source == "first" else attended.shape[1] - 1 - attended.flip(-1).argmax(-1)
        return TGDTFeatures(pooler_output=hidden[torch.arange(len(hidden)), slot])

    @staticmethod
    def _inputs_of(projections: list[nn.Module], features_of: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Return what each of the projections gets in one forward pass; they run in this order."""
        seen: list[Tensor] = []
        hooks = [
            projection.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for projection in projections
        ]
        try:
            features_of(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return seen
