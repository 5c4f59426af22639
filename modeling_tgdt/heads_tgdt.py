# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Encoders that TGDT puts on its backbones: layers, boxes joined in, pooling under masks, and their outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_tgdt import TGDTConfig


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention in plain PyTorch, (B, heads, S, head_dim) -> (B, S, heads, head_dim)."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class TGDTLinear(nn.Linear):
    """Linear map whose initial weights have a standard deviation of their own.

    Quantisers replace `nn.Linear` itself: this one stays as it is, which the odd widths of boxes need.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        initializer_range: That standard deviation; 0 makes a map that starts at zero.
    """

    def __init__(self, in_features: int, out_features: int, initializer_range: float) -> None:
        super().__init__(in_features, out_features)
        self.initializer_range = initializer_range  # TGDTPreTrainedModel._init_weights reads it


class TGDTAttention(nn.Module):
    """Multi-head attention through the attention implementations of transformers."""

    def __init__(self, config: TGDTConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = _last_projection(config, hidden_size, hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, context: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from (B, S, H) to `context` (B, T, H), by default to itself.

        Returns:
            (B, S, H), and the attention weights where the implementation gives them.
        """
        context = hidden_states if context is None else context
        query = self._heads(self.q_proj(hidden_states))
        key, value = self._heads(self.k_proj(context)), self._heads(self.v_proj(context))
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
            **kwargs,
        )
        return self.out_proj(output.reshape(hidden_states.shape).contiguous()), weights

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)


class TGDTEncoderLayer(GradientCheckpointingLayer):
    """Transformer layer (reference: `nn.TransformerEncoderLayer`, 4 heads, ReLU), see `TGDTConfig.encoder_layer_type`.

    Post-norm layers normalise after each sum. Residual ones normalise before attention and feed-forward block, whose
    last projections start at zero: a new layer is the identity.
    """

    def __init__(self, config: TGDTConfig, hidden_size: int) -> None:
        super().__init__()
        self.is_residual = config.encoder_layer_type == "residual"
        self.self_attn = TGDTAttention(config, hidden_size)
        self.fc1 = nn.Linear(hidden_size, config.intermediate_size)
        self.fc2 = _last_projection(config, config.intermediate_size, hidden_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, context: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Map (B, S, H) to (B, S, H), attending to `context` (B, T, H) or to itself."""
        if self.is_residual:
            context = None if context is None else self.layer_norm1(context)
            attended, _ = self.self_attn(self.layer_norm1(hidden_states), attention_mask, context, **kwargs)
            hidden_states = hidden_states + self.dropout(attended)
            return hidden_states + self._feed_forward(self.layer_norm2(hidden_states))
        attended, _ = self.self_attn(hidden_states, attention_mask, context, **kwargs)
        hidden_states = self.layer_norm1(hidden_states + self.dropout(attended))
        return self.layer_norm2(hidden_states + self._feed_forward(hidden_states))

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation_fn(self.fc1(hidden_states)))))


def _last_projection(config: TGDTConfig, in_features: int, out_features: int) -> nn.Linear:
    """Return the projection that ends a block; a residual block adds nothing at first."""
    projection: Any = nn.Linear(in_features, out_features)
    if config.encoder_layer_type == "residual":
        projection.initializer_range = 0.0
    return projection


def run_layers(layers: nn.ModuleList, config: TGDTConfig, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
    """Run layers over (B, S, H) under a boolean key mask (B, S); `None` attends everywhere."""
    if not layers:
        return hidden_states
    attention_mask = create_bidirectional_mask(config=config, inputs_embeds=hidden_states, attention_mask=mask)
    for layer in layers:
        hidden_states = layer(hidden_states, attention_mask)
    return hidden_states


def pick(states: Tensor, position: Tensor) -> Tensor:
    """Return what stands at a position (B,) of states (B, S, H): (B, H)."""
    return states[torch.arange(states.shape[0], device=states.device), position]


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, 1, F) of the real rows of (B, R, F); zero where there is none."""
    weights = mask.to(features.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
    return weights[:, None].to(features.dtype) @ features


def masked_max(features: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum of each feature (B, 1, F) over the real rows of (B, R, F), which hold one at least."""
    return features.masked_fill(~mask[..., None], torch.finfo(features.dtype).min).amax(1, keepdim=True)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return unit vectors; zero ones stay zero, with a finite gradient in half precision too, where 1e-12 is 0."""
    return F.normalize(vectors, dim=-1, eps=max(1e-12, torch.finfo(vectors.dtype).tiny))


def unit_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return tokens (B, S, D) as unit vectors, zero where the mask (B, S) is false."""
    return unit_vectors(tokens).masked_fill(~mask[..., None], 0)


def global_slot(source: str, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return what stands before the regions (B, R, F) of an image, whose output becomes its global embedding.

    Args:
        source: `TGDTConfig.image_global_token`. With `"zeros"` the slot is empty, otherwise the mean of the regions.
        features: Region features (B, R, F).
        mask: Boolean (B, R), true for real regions.

    Returns:
        The slot (B, 1, F) and its box (B, 1, 4): the whole image, or nothing.
    """
    if source == "zeros":
        slot = features.new_zeros(features.shape[0], 1, features.shape[2])
        return slot, features.new_zeros(features.shape[0], 1, 4)
    return masked_mean(features, mask), features.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(features.shape[0], 1, 4)


class TGDTEncoder(nn.Module):
    """A stack of layers with no final norm; zero layers are the identity."""

    def __init__(self, config: TGDTConfig, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([TGDTEncoderLayer(config, hidden_size) for _ in range(num_layers)])

    def forward(self, hidden_states: Tensor, mask: Tensor | None, position: Tensor | None = None) -> Tensor:
        """Encode (B, S, H) under a boolean key mask (B, S), true where attended; `None` attends everywhere.

        Returns:
            (B, S, H); with a position (B,) only what stands there, (B, H), and the last layer computes no other.
        """
        if position is None:
            return run_layers(self.layers, self.config, hidden_states, mask)
        if not self.layers:
            return pick(hidden_states, position)
        states = run_layers(self.layers[:-1], self.config, hidden_states, mask)
        picked = pick(states, position)[:, None]
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=picked, attention_mask=mask, encoder_hidden_states=states
        )
        return self.layers[-1](picked, attention_mask, states)[:, 0]


def check_regions(features: Tensor, boxes: Tensor | None, mask: Tensor | None, size: int) -> None:
    """Refuse regions whose shapes do not fit.

    Args:
        features: Region features, (B, R, F) when right.
        boxes: Their boxes, (B, R, 4) when right.
        mask: True for real regions, (B, R) when right.
        size: F, `TGDTConfig.region_feature_size`.

    Raises:
        ValueError: When one has another shape.
    """
    if features.ndim != 3 or features.shape[-1] != size:
        raise ValueError(f"region_features must have shape (B, R, {size}), found {tuple(features.shape)}.")
    if boxes is not None and boxes.shape != (*features.shape[:2], 4):
        raise ValueError(f"region_boxes must have shape {(*features.shape[:2], 4)}, found {tuple(boxes.shape)}.")
    if mask is not None and mask.shape != features.shape[:2]:
        raise ValueError(f"region_mask must have shape {tuple(features.shape[:2])}, found {tuple(mask.shape)}.")


class TGDTBoxEmbedding(nn.Module):
    """Join region features with their boxes and areas (paper, section III-A; reference `concat-and-process`)."""

    def __init__(self, config: TGDTConfig) -> None:
        super().__init__()
        size = config.region_feature_size
        self.mode = config.box_encoding
        if self.mode == "concat":
            self.fc1 = TGDTLinear(size + 5, size, config.initializer_range)
            self.fc2 = nn.Linear(size, size)
        elif self.mode == "sum":
            self.fc1 = TGDTLinear(5, size, config.box_initializer_range)

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """Map features (B, R, F) and boxes (B, R, 4), xyxy in [0, 1], to (B, R, F). `None`: positions unknown."""
        if self.mode == "none" or (self.mode == "sum" and boxes is None):
            return features
        boxes = features.new_zeros(*features.shape[:2], 4) if boxes is None else boxes.to(features.dtype)
        x1, y1, x2, y2 = boxes.unbind(-1)
        geometry = torch.cat([boxes, ((x2 - x1) * (y2 - y1))[..., None]], dim=-1)
        if self.mode == "sum":
            return features + self.fc1(geometry)
        return self.fc2(F.relu(self.fc1(torch.cat([features, geometry], dim=-1))))


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


__all__ = [
    "TGDTAttention",
    "TGDTBoxEmbedding",
    "TGDTEncoder",
    "TGDTEncoderLayer",
    "TGDTFeatures",
    "TGDTLinear",
    "TGDTOutput",
    "check_regions",
    "global_slot",
    "masked_max",
    "masked_mean",
    "pick",
    "run_layers",
    "unit_tokens",
    "unit_vectors",
]
