# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Consistent Multimodal Contrastive (CMC) loss (arXiv 2306.08789, section III-C)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .similarity_tgdt import Reduction, token_similarity, token_similarity_pairs

Objective = Literal["hinge", "infonce", "sigmoid"]


class CMCTerms(NamedTuple):
    """What one evaluation of the loss gives.

    Attributes:
        loss: Weighted sum of the components, a scalar.
        components: Unweighted scalars `global`, `local`, `intra`, `distill`; only those whose weight is not 0.
        local_similarity: All-pairs token similarity (B, B), detached where only its hardest pairs were differentiated;
            `None` when no component needed it.
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
        distill_temperature: Divides the global similarities before that softmax; the token similarities are divided by
            `local_temperature / temperature` times as much.

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

    def forward(
        self,
        image_embeds: Tensor | None,
        text_embeds: Tensor | None,
        image_tokens: Tensor | None = None,
        text_tokens: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compare B aligned pairs: row i of every image tensor belongs to row i of every text tensor.

        Args:
            image_embeds: Global image embeddings (B, D); may be `None` when only the token term has weight.
            text_embeds: Global caption embeddings (B, D).
            image_tokens: Region embeddings (B, R, D); may be `None` when `local_weight` and `distill_weight` are 0.
            text_tokens: Word embeddings (B, W, D).
            image_mask: Boolean (B, R), true for real regions.
            text_mask: Boolean (B, W), true for real words.
            image_ids: Integers (B,). Rows of one id show one photo and are never each other's negatives.

        Returns:
            `"loss"` and the unweighted components, scalars.

        Raises:
            ValueError: When a tensor that a weighted term needs is missing, or batch sizes differ.
        """
        terms = self.terms(image_embeds, text_embeds, image_tokens, text_tokens, image_mask, text_mask, image_ids)
        return {"loss": terms.loss, **terms.components}

    def terms(
        self,
        image_embeds: Tensor | None,
        text_embeds: Tensor | None,
        image_tokens: Tensor | None = None,
        text_tokens: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
    ) -> CMCTerms:
        """Compute the loss as [`CMCLoss.forward`] does, and keep the token similarities that it needed."""
        weights = {
            "global": self.global_weight,
            "local": self.local_weight,
            "intra": self.intra_weight,
            "distill": self.distill_weight,
        }
        tokens = embeds = None
        if self.local_weight or self.distill_weight:
            tokens = _pair("tokens", image_tokens, text_tokens, image_ids)
        if self.global_weight or self.intra_weight or self.distill_weight:
            embeds = _pair("embeds", image_embeds, text_embeds, image_ids)
        if tokens is not None and embeds is not None and len(tokens[0]) != len(embeds[0]):
            raise ValueError(
                "The loss compares aligned pairs: batch sizes must be equal, found "
                f"{len(embeds[0])} global embeddings and {len(tokens[0])} token sets."
            )
        components: dict[str, Tensor] = {}
        local_similarity = None
        if tokens is not None:
            negatives = negative_mask(len(tokens[0]), image_ids, tokens[0].device)
            components["local"], local_similarity = self._local(*tokens, image_mask, text_mask, negatives)
        if embeds is not None and (self.global_weight or self.distill_weight):
            similarity = _product(*embeds)
            negatives = negative_mask(len(similarity), image_ids, similarity.device)
            components["global"] = self._inter_global(similarity, negatives)
            if self.distill_weight and local_similarity is not None:
                teacher = local_similarity * (self.temperature / self.local_temperature)
                components["distill"] = distillation(teacher, similarity, self.distill_temperature)
        if embeds is not None and self.intra_weight:
            components["intra"] = intra_modal_consistency(*embeds, self.intra_margin)
            if self.objective != "hinge":
                components["intra"] = components["intra"] / len(embeds[0])
        components = {name: value for name, value in components.items() if weights[name]}
        if not components:
            raise ValueError("Every weight of the loss is 0. Give at least one of global, local, intra some weight.")
        loss = torch.stack([weights[name] * value for name, value in components.items()]).sum()
        return CMCTerms(loss, components, local_similarity)

    def _inter_global(self, similarity: Tensor, negatives: Tensor) -> Tensor:
        if self.objective == "hinge":
            return hinge(similarity, negatives, self.margin, self.hardest_negatives)
        if self.objective == "infonce":
            return infonce(similarity, negatives, self.temperature)
        return sigmoid(similarity, negatives, self.temperature, self.sigmoid_bias)

    def _inter_local(self, similarity: Tensor, negatives: Tensor) -> Tensor:
        if self.objective == "hinge":
            cost = hinge(similarity, negatives, self.local_margin, self.hardest_negatives)
            return cost * (self.margin / self.local_margin)
        if self.objective == "infonce":
            return infonce(similarity, negatives, self.local_temperature)
        return sigmoid(similarity, negatives, self.local_temperature, self.local_sigmoid_bias)

    def _local(
        self, images: Tensor, texts: Tensor, image_mask: Tensor | None, text_mask: Tensor | None, negatives: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not (self.objective == "hinge" and self.hardest_negatives):
            similarity = self._similarity(images, texts, image_mask, text_mask)
            return self._inter_local(similarity, negatives), similarity
        with torch.no_grad():
            similarity = self._similarity(images, texts, image_mask, text_mask)
        rows, columns, has_negative = hardest_pairs(similarity, negatives)
        scores = token_similarity_pairs(
            images,
            texts,
            image_mask,
            text_mask,
            image_index=rows,
            text_index=columns,
            reduction=self.reduction,
            scale=self.scale,
        )
        positive, of_image, of_text = scores.chunk(3)
        margin = self.local_margin
        costs = (margin + of_image - positive).clamp(min=0) + (margin + of_text - positive).clamp(min=0)
        return (costs * has_negative).sum() * (self.margin / margin), similarity

    def _similarity(
        self, images: Tensor, texts: Tensor, image_mask: Tensor | None, text_mask: Tensor | None
    ) -> Tensor:
        return token_similarity(images, texts, image_mask, text_mask, reduction=self.reduction, scale=self.scale)


def _pair(kind: str, images: Tensor | None, texts: Tensor | None, image_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both sides of a weighted term, or say which is missing or does not line up."""
    if images is None or texts is None:
        name = f"image_{kind}" if images is None else f"text_{kind}"
        raise ValueError(f"{name} is missing, and a term with a weight needs it. Pass it or set that weight to 0.")
    sizes = {f"image_{kind}": len(images), f"text_{kind}": len(texts)}
    if image_ids is not None:
        sizes["image_ids"] = len(image_ids)
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The loss compares aligned pairs: batch sizes must be equal, found {sizes}.")
    return images, texts


def negative_mask(batch_size: int, image_ids: Tensor | None, device: torch.device) -> Tensor:
    """Return the boolean (B, B) mask of pairs that are negatives: different rows, different photos.

    Args:
        batch_size: B.
        image_ids: Integers (B,) or `None` when every row is a photo of its own.
        device: Where the mask lives.
    """
    if image_ids is None:
        return ~torch.eye(batch_size, dtype=torch.bool, device=device)
    image_ids = image_ids.to(device)
    return image_ids[:, None] != image_ids[None, :]


def hinge(similarity: Tensor, negatives: Tensor, margin: float, hardest: bool) -> Tensor:
    """Return the bidirectional hinge (paper, Eq. 8; reference `models/loss.py`), summed over the batch.

    Args:
        similarity: Images by captions (B, B), positives on the diagonal.
        negatives: Boolean (B, B).
        margin: Required distance of a negative from its positive.
        hardest: Keep the largest violation per image and per caption, or all.
    """
    positive = similarity.diagonal()
    of_image = (margin + similarity - positive[:, None]).clamp(min=0).masked_fill(~negatives, 0)
    of_text = (margin + similarity - positive[None, :]).clamp(min=0).masked_fill(~negatives, 0)
    if hardest:
        return of_image.max(1).values.sum() + of_text.max(0).values.sum()
    return of_image.sum() + of_text.sum()


def hardest_pairs(similarity: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 3B pairs that a hardest-negative hinge depends on.

    Args:
        similarity: Images by captions (B, B).
        negatives: Boolean (B, B).

    Returns:
        Image rows (3B,) and caption columns (3B,): the positives, each image's hardest caption, each caption's hardest
        image; and 1 or 0 (B,) by whether the row has any negative.
    """
    scores = similarity.masked_fill(~negatives, torch.finfo(similarity.dtype).min)
    index = torch.arange(len(scores), device=scores.device)
    rows = torch.cat([index, index, scores.argmax(0)])
    columns = torch.cat([index, scores.argmax(1), index])
    return rows, columns, negatives.any(1).to(similarity.dtype)


def infonce(similarity: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the symmetric softmax cross-entropy (CLIP), averaged over queries and directions.

    Args:
        similarity: Images by captions (B, B), positives on the diagonal.
        negatives: Boolean (B, B); other pairs off the diagonal take no part.
        temperature: Divides the similarities.
    """
    ignored = ~negatives & ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    logits = (similarity / temperature).masked_fill(ignored, torch.finfo(similarity.dtype).min)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid(similarity: Tensor, negatives: Tensor, temperature: float, bias: float) -> Tensor:
    """Return the pairwise sigmoid loss (SigLIP), summed over pairs and averaged over rows.

    Args:
        similarity: Images by captions (B, B), positives on the diagonal.
        negatives: Boolean (B, B); other pairs off the diagonal take no part.
        temperature: Divides the similarities.
        bias: Added to the logits.
    """
    positives = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    logits = similarity / temperature + bias
    costs = -F.logsigmoid(torch.where(positives, logits, -logits))
    return costs.masked_fill(~(positives | negatives), 0).sum() / len(similarity)


def intra_modal_consistency(image_embeds: Tensor, text_embeds: Tensor, margin: float) -> Tensor:
    """Return by how much image-image and caption-caption similarities disagree (paper, Eq. 10), summed over rows.

    Each row counts its largest |caption similarity - image similarity| beyond `margin`. Pairs of one photo count like
    all others: they are no negatives here, their captions are asked to be as alike as the photo is to itself.

    Args:
        image_embeds: Global image embeddings (B, D).
        text_embeds: Global caption embeddings (B, D).
        margin: Slack.
    """
    gap = (_product(text_embeds, text_embeds) - _product(image_embeds, image_embeds)).abs()
    return (gap.max(1).values - margin).clamp(min=0).sum()


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's ranking distribution, over both directions.

    Args:
        teacher: Token similarities (B, B), images by captions; no gradient flows into them.
        student: Global similarities (B, B).
        temperature: Divides both.
    """
    losses = []
    for dim in (0, 1):
        target = (teacher.detach() / temperature).log_softmax(dim)
        losses.append(F.kl_div((student / temperature).log_softmax(dim), target, log_target=True, reduction="sum"))
    return (losses[0] + losses[1]) / (2 * len(student))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right.T in at least float32, whatever autocast says: ranking needs the bits."""
    dtype = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return left.to(dtype) @ right.to(dtype).T


__all__ = ["CMCLoss", "CMCTerms", "Objective"]
