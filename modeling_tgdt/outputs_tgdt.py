# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What [`TGDTModel`] returns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class TGDTFeatures(BaseModelOutputWithPooling):
    """Embeddings of one branch.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, tokens, projection_dim)`):
            Unit token embeddings: regions of an image or positions of a text (times the words' weights under
            `word_weighting`). Rows outside `token_mask` are zero.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            Unit global embeddings.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            Hidden states of the backbone; of the transformer over regions where regions are the input.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attentions of the same.
        token_mask (`torch.BoolTensor` of shape `(batch_size, tokens)`):
            True for real regions, and for words without special tokens.
        token_boxes (`torch.FloatTensor` of shape `(batch_size, tokens, 4)`, *optional*):
            Boxes of the regions, xyxy in [0, 1]; `None` for texts and where positions are unknown.
    """

    # TGDTModel always sets these three, so they are typed without the `None` that a ModelOutput wants as default.
    last_hidden_state: Any = None
    pooler_output: Any = None
    token_mask: Any = None
    token_boxes: Tensor | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are set; the mask as integers, like every mask in transformers' tuples."""
        return _to_tuple(self)


@dataclass
class TGDTOutput(ModelOutput):
    """Output of [`TGDTModel`] for Bi images and Bt captions.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss` is `True`):
            CMC loss.
        loss_components (`dict[str, torch.FloatTensor]`, *optional*):
            Detached, unweighted terms of the loss: `global`, `local`, `intra`.
        logits_per_image (`torch.FloatTensor` of shape `(Bi, Bt)`):
            Mixed similarity `global_score_weight * S_global + local_score_weight * S_local`. Under a
            hardest-negative hinge its token part carries no gradient; the loss does.
        logits_per_text (`torch.FloatTensor` of shape `(Bt, Bi)`):
            Its transpose.
        image_embeds (`torch.FloatTensor` of shape `(Bi, D)`):
            Unit global embeddings of images.
        text_embeds (`torch.FloatTensor` of shape `(Bt, D)`):
            Unit global embeddings of captions.
        image_token_embeds (`torch.FloatTensor` of shape `(Bi, R, D)`):
            Unit region embeddings, zero where masked.
        text_token_embeds (`torch.FloatTensor` of shape `(Bt, W, D)`):
            Word embeddings, zero where masked: unit vectors, times the words' weights under `word_weighting`.
        image_token_mask (`torch.BoolTensor` of shape `(Bi, R)`):
            True for real regions.
        text_token_mask (`torch.BoolTensor` of shape `(Bt, W)`):
            True for words; special tokens and padding are false.
        logit_scales (`torch.FloatTensor` of shape `(Bt, 2)` or `(Bt, 4)`, *optional*, with `learnable_temperature`):
            Learned log scales of the global and the token term, and biases of the sigmoid, once per caption.
        vision_model_output (`TGDTFeatures`):
            What `get_image_features` gives.
        text_model_output (`TGDTFeatures`):
            What `get_text_features` gives.
    """

    loss: Tensor | None = None
    loss_components: dict[str, Tensor] | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    image_token_embeds: Tensor | None = None
    text_token_embeds: Tensor | None = None
    image_token_mask: Tensor | None = None
    text_token_mask: Tensor | None = None
    logit_scales: Tensor | None = None
    vision_model_output: TGDTFeatures | None = None
    text_model_output: TGDTFeatures | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are set: nested outputs as tuples too, masks as integers."""
        return _to_tuple(self)


def _to_tuple(output: ModelOutput) -> tuple[Any, ...]:
    return tuple(
        value.to_tuple()
        if isinstance(value, ModelOutput)
        else value.long()
        if isinstance(value, Tensor) and value.dtype is torch.bool
        else value
        for value in output.values()
    )


__all__ = ["TGDTFeatures", "TGDTOutput"]
