# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Consistent Multimodal Contrastive (CMC) loss (arXiv 2306.08789, section III-C)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .objectives_tgdt import (
    Directions,
    Number,
    PairEmbeddings,
    PairSizes,
    distillation,
    dot_products,
    hardest_pairs,
    hinge,
    infonce,
    intra_modal_consistency,
    negative_masks,
    sigmoid,
)
from .similarity_tgdt import Reduction, token_similarity, token_similarity_pairs, truncate

# Learned temperatures (CLIP, arXiv 2103.00020) and biases (SigLIP, arXiv 2303.15343).
# Temperatures from 0.002 to 1; CLIP stops at 0.01, but a mean over words needs less than a cosine.
_MIN_LOG_SCALE, _MAX_LOG_SCALE = 0.0, math.log(500.0)


class LogitScales(nn.Module):
    """Learned logit scale of the global and of the token term, and their biases under the sigmoid.

    Args:
        temperatures: Temperatures to start from, global and token.
        biases: Biases to start from, or `None` for an objective without one.

    Example:
        >>> [round(value, 3) for value in LogitScales((0.05, 0.015), None)(1)[0].exp().tolist()]
        [20.0, 66.667]
    """

    def __init__(self, temperatures: tuple[float, float], biases: tuple[float, float] | None) -> None:
        super().__init__()
        self.temperatures, self.biases = temperatures, biases
        self.log_scale = nn.Parameter(torch.empty(2))
        if biases is not None:
            self.bias = nn.Parameter(torch.empty(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the start values; what a checkpoint holds stays."""
        init.copy_(self.log_scale, -torch.tensor(self.temperatures).log())
        if self.biases is not None:
            init.copy_(self.bias, torch.tensor(self.biases))

    def forward(self, rows: int) -> Tensor:
        """Return the log scales and then the biases, in at least float32 and once per row: (rows, 2) or (rows, 4).

        A loss reads their mean over rows. As a column of the batch they take the way of the embeddings: through a
        wrapped forward, mini-batches, and a gather over processes, each of which hands the gradient back.
        """
        dtype = torch.promote_types(self.log_scale.dtype, torch.float32)
        values = self.log_scale.to(dtype)
        # The value stops at the bounds, the gradient does not: a scale beyond them finds its way back.
        columns = [values + (values.clamp(_MIN_LOG_SCALE, _MAX_LOG_SCALE) - values).detach()]
        if self.biases is not None:
            columns.append(self.bias.to(dtype))
        return torch.cat(columns).expand(rows, -1)


Objective = Literal["hinge", "infonce", "sigmoid"]


class CMCTerms(NamedTuple):
    """What one evaluation of the loss gives.

    Attributes:
        loss: Weighted sum of the components, a scalar.
        components: Unweighted scalars `global`, `matryoshka`, `local`, `intra`, `distill`; only those whose weight is
            not 0.
        local_similarity: All-pairs token similarity (B, B), detached where only its hardest pairs were differentiated;
            `None` when no component needed it, or hard negatives follow the pairs.
    """

    loss: Tensor
    components: dict[str, Tensor]
    local_similarity: Tensor | None


class CMCLoss(nn.Module):
    """CMC loss: inter-modal ranking on global and on token similarity, intra-modal consistency, optional distillation.

    With the hinge all terms are sums over the batch, as in the reference. `"infonce"` and `"sigmoid"` are means over
    queries, and the consistency term beside them is a mean over rows, so that its weight holds for any batch size.

    A mean of W best cosines moves by 1/W at most when one word is wrong, so the token similarity has a margin,
    temperature and bias of its own. Its hinge is `margin / local_margin * max(0, local_margin + negative - positive)`:
    a pair that is not told apart at all costs `margin` in both terms. Where they are omitted they equal the global
    ones, which suits a sum over words and a scale of 10 (reference); for a mean [`TGDTConfig`] has smaller ones.

    Args:
        margin: Margin of the hinge on global similarity.
        intra_margin: Slack of the consistency term, which is 0 while no pair of a row differs by more.
        global_weight: Weight of the inter-modal term on global similarity.
        local_weight: Weight of the inter-modal term on token similarity.
        intra_weight: Weight of the consistency term.
        hardest_negatives: Keep each query's hardest negative (VSE++), or sum over all negatives.
        objective: `"hinge"` (paper), `"infonce"` or `"sigmoid"`, for both inter-modal terms.
        temperature: Divides global similarities in `"infonce"` and `"sigmoid"`.
        sigmoid_bias: Added to the global logits of `"sigmoid"`.
        local_margin: Margin of the hinge on token similarity.
        local_temperature: Divides token similarities in `"infonce"` and `"sigmoid"`.
        local_sigmoid_bias: Added to the token logits of `"sigmoid"`.
        reduction: `"sum"` (reference) or `"mean"` of the token similarity over words.
        scale: Factor of the token similarity; the reference uses 10.
        distill_weight: Weight of the cross-entropy from the token similarities' distribution over the batch to the
            global one, in both directions: stage one learns what stage two knows.
        learnable_temperature: Learn the temperatures of both terms, and the biases of `"sigmoid"`, from these values:
            they are parameters of this module (`logit_scales`), unless the batch brings those of a model.
        distill_temperature: Divides the global similarities before that softmax; the token similarities are divided by
            `local_temperature / temperature` times as much.
        matryoshka_dims: Lengths that global embeddings may be cut to. The mean of the inter-modal terms on the cut
            embeddings, brought back to unit length, is added with `global_weight` (arXiv 2205.13147).

    Example:
        >>> import torch
        >>> embeds, tokens = torch.eye(3), torch.eye(3)[:, None]
        >>> terms = CMCLoss()(embeds, embeds, tokens, tokens)
        >>> terms["loss"].item()
        0.0
    """

    def __init__(
        self,
        margin: float = 0.2,
        intra_margin: float = 0.3,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
        intra_weight: float = 1.0,
        hardest_negatives: bool = True,
        *,
        objective: Objective = "hinge",
        temperature: float = 0.05,
        sigmoid_bias: float = -10.0,
        local_margin: float | None = None,
        local_temperature: float | None = None,
        local_sigmoid_bias: float | None = None,
        reduction: Reduction = "sum",
        scale: float = 1.0,
        distill_weight: float = 0.0,
        distill_temperature: float = 0.05,
        learnable_temperature: bool = False,
        matryoshka_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if objective not in ("hinge", "infonce", "sigmoid"):
            raise ValueError(f"objective must be 'hinge', 'infonce' or 'sigmoid', found {objective!r}.")
        self.margin, self.intra_margin = margin, intra_margin
        self.global_weight, self.local_weight, self.intra_weight = global_weight, local_weight, intra_weight
        self.hardest_negatives, self.objective = hardest_negatives, objective
        self.temperature, self.sigmoid_bias = temperature, sigmoid_bias
        self.local_margin = margin if local_margin is None else local_margin
        self.local_temperature = temperature if local_temperature is None else local_temperature
        self.local_sigmoid_bias = sigmoid_bias if local_sigmoid_bias is None else local_sigmoid_bias
        self.reduction, self.scale = reduction, scale
        self.distill_weight, self.distill_temperature = distill_weight, distill_temperature
        self.matryoshka_dims = tuple(matryoshka_dims)
        self.logit_scales: LogitScales | None = None
        if learnable_temperature:
            if objective == "hinge":
                raise ValueError("learnable_temperature needs the objective 'infonce' or 'sigmoid', found 'hinge'.")
            biases = (self.sigmoid_bias, self.local_sigmoid_bias) if objective == "sigmoid" else None
            self.logit_scales = LogitScales((self.temperature, self.local_temperature), biases)

    def forward(
        self,
        image_embeds: Tensor | None,
        text_embeds: Tensor | None,
        image_tokens: Tensor | None = None,
        text_tokens: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        caption_ids: Tensor | None = None,
        num_pairs: int | None = None,
    ) -> dict[str, Tensor]:
        """Compare B aligned pairs: row i of every image tensor belongs to row i of every text tensor.

        Rows beyond `num_pairs` are hard negatives: captions (Bt - B) that every image of a pair is ranked against too,
        images (Bi - B) that every caption of a pair is.

        Args:
            image_embeds: Global image embeddings (Bi, D); may be `None` when only the token term has weight.
            text_embeds: Global caption embeddings (Bt, D).
            image_tokens: Region embeddings (Bi, R, D); may be `None` when `local_weight` and `distill_weight` are 0.
            text_tokens: Word embeddings (Bt, W, D).
            image_mask: Boolean (Bi, R), true for real regions.
            text_mask: Boolean (Bt, W), true for real words.
            image_ids: Integers (Bi,). Rows of one id show one photo and are never each other's negatives.
            caption_ids: Integers (Bt,). Captions of one id say the same, and are not negatives of each other's images.
            num_pairs: B; all rows when omitted.

        Returns:
            `"loss"` and the unweighted components, scalars.

        Raises:
            ValueError: When a tensor that a weighted term needs is missing, or batch sizes differ.
        """
        embeddings = (image_embeds, text_embeds, image_tokens, text_tokens, image_mask, text_mask)
        terms = self.terms(PairEmbeddings(*embeddings, image_ids, caption_ids, num_pairs=num_pairs))
        return {"loss": terms.loss, **terms.components}

    def terms(self, pairs: PairEmbeddings) -> CMCTerms:
        """Compute the loss as [`CMCLoss.forward`] does, and keep the token similarities that it needed."""
        weights = {
            "global": self.global_weight,
            "matryoshka": self.global_weight,
            "local": self.local_weight,
            "intra": self.intra_weight,
            "distill": self.distill_weight,
        }
        if not any(weights.values()):
            raise ValueError("Every weight of the loss is 0. Give at least one of global, local, intra some weight.")
        has_tokens = bool(self.local_weight or self.distill_weight)
        has_global = bool(self.global_weight or self.distill_weight)
        _check_present(pairs, "tokens", has_tokens)
        _check_present(pairs, "embeds", has_global or bool(self.intra_weight))
        sizes = pairs.sizes()
        device = (pairs.image_tokens if has_tokens else pairs.image_embeds).device
        negatives = negative_masks(sizes, pairs.image_ids, pairs.caption_ids, device)
        components: dict[str, Tensor] = {}
        local = None
        if has_tokens:
            components["local"], local = self._local(pairs, sizes, negatives)
        if has_global:
            components["global"], similarity = self._global(pairs.image_embeds, pairs.text_embeds, pairs, negatives)
            if self.distill_weight and local is not None:
                ratio = self.temperature / self.local_temperature  # brings tokens to the spread of global similarities
                teacher = Directions(local.i2t * ratio, local.t2i * ratio)
                components["distill"] = distillation(teacher, similarity, self.distill_temperature)
        if self.matryoshka_dims and self.global_weight:
            components["matryoshka"] = self._matryoshka(pairs, negatives)
        if self.intra_weight:
            embeds = pairs.image_embeds[: sizes.pairs], pairs.text_embeds[: sizes.pairs]
            components["intra"] = intra_modal_consistency(*embeds, self.intra_margin)
            if self.objective != "hinge":  # a mean beside means, a sum beside sums
                components["intra"] = components["intra"] / len(embeds[0])
        # Distillation needs both similarities, though their own terms may have no weight.
        components = {name: value for name, value in components.items() if weights[name]}
        loss = torch.stack([weights[name] * value for name, value in components.items()]).sum()
        is_square = local is not None and local.i2t.shape == local.t2i.shape == (sizes.pairs, sizes.pairs)
        return CMCTerms(loss, components, local.i2t if local is not None and is_square else None)

    def _inter(
        self, similarity: Directions, negatives: Directions, margin: float, temperature: Number, bias: Number
    ) -> Tensor:
        if self.objective == "hinge":
            cost = hinge(similarity, negatives, margin, self.hardest_negatives)
            return cost if margin == self.margin else cost * (self.margin / margin)  # both terms cost alike
        if self.objective == "infonce":
            return infonce(similarity, negatives, temperature)
        return sigmoid(similarity, negatives, temperature, bias)

    def _global(
        self, images: Tensor, texts: Tensor, pairs: PairEmbeddings, negatives: Directions
    ) -> tuple[Tensor, Directions]:
        similarity = _directions(lambda i, t: dot_products(images[i], texts[t]), pairs.sizes())
        return self._inter(similarity, negatives, self.margin, *self._spread(pairs, 0)), similarity

    def _matryoshka(self, pairs: PairEmbeddings, negatives: Directions) -> Tensor:
        terms = []
        for dim in self.matryoshka_dims:
            embeds = truncate(pairs.image_embeds, dim), truncate(pairs.text_embeds, dim)
            terms.append(self._global(*embeds, pairs, negatives)[0])
        return torch.stack(terms).mean()

    def _local(self, pairs: PairEmbeddings, sizes: PairSizes, negatives: Directions) -> tuple[Tensor, Directions]:
        # The hardest-negative hinge reads 3B of the B x B pairs: all are scored without a graph, those again with one.
        is_mined = self.objective == "hinge" and self.hardest_negatives
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_mined):
            similarity = _directions(partial(self._similarity, pairs), sizes)
        if is_mined:
            return self._mined_hinge(pairs, *hardest_pairs(similarity, negatives)), similarity
        return self._inter(similarity, negatives, self.local_margin, *self._spread(pairs, 1)), similarity

    def _spread(self, pairs: PairEmbeddings, term: int) -> tuple[Number, Number]:
        """Return temperature and bias of the global (0) or token term (1): learned ones where there are some."""
        learned = pairs.logit_scales
        if learned is None and self.logit_scales is not None:
            learned = self.logit_scales(1)
        if learned is None:
            temperatures, biases = (
                (self.temperature, self.local_temperature),
                (self.sigmoid_bias, self.local_sigmoid_bias),
            )
            return temperatures[term], biases[term]
        values = learned.mean(0)  # (2,) log scales, or (4,) with biases; once per caption, and all equal
        return (-values[term]).exp(), values[2 + term] if len(values) > 2 else 0.0

    def _similarity(self, pairs: PairEmbeddings, images: slice, texts: slice) -> Tensor:
        return token_similarity(
            pairs.image_tokens[images],
            pairs.text_tokens[texts],
            None if pairs.image_mask is None else pairs.image_mask[images],
            None if pairs.text_mask is None else pairs.text_mask[texts],
            reduction=self.reduction,
            scale=self.scale,
        )

    def _mined_hinge(self, pairs: PairEmbeddings, images: Tensor, texts: Tensor, has_negative: Tensor) -> Tensor:
        """Return the hardest-negative hinge on token similarity; only its 3B pairs are differentiated."""
        scores = token_similarity_pairs(
            pairs.image_tokens,
            pairs.text_tokens,
            pairs.image_mask,
            pairs.text_mask,
            image_index=images,
            text_index=texts,
            reduction=self.reduction,
            scale=self.scale,
        )
        positive, *negatives = scores.chunk(3)  # (B,) each: pairs, hardest captions, hardest images
        margin = self.local_margin
        costs = (margin + torch.stack(negatives) - positive).clamp(min=0) * has_negative
        return costs.sum() if margin == self.margin else costs.sum() * (self.margin / margin)


def _directions(score: Callable[[slice, slice], Tensor], sizes: PairSizes) -> Directions:
    """Score the images of the pairs by all captions, and the captions of the pairs by all images."""
    everything, of_pairs, beyond = slice(None), slice(sizes.pairs), slice(sizes.pairs, None)
    i2t = score(of_pairs, everything)  # (B, Bt)
    t2i = i2t[:, of_pairs].T  # (B, B), and with further images (B, Bi)
    if sizes.images > sizes.pairs:
        t2i = torch.cat([t2i, score(beyond, of_pairs).T], dim=1)
    return Directions(i2t, t2i)


def _check_present(pairs: PairEmbeddings, kind: str, is_needed: bool) -> None:
    """Say which tensor of a weighted term is missing."""
    for name in (f"image_{kind}", f"text_{kind}"):
        if is_needed and getattr(pairs, name) is None:
            raise ValueError(f"{name} is missing, and a term with a weight needs it. Pass it or set that weight to 0.")


__all__ = ["CMCLoss", "CMCTerms", "LogitScales", "Objective"]
