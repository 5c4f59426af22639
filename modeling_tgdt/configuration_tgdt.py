# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDT model configuration."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Depth of the transformer over detector regions in the released F30K and COCO settings.
_DEFAULT_REGION_LAYERS = 4
# What transformers itself writes into a config.json or passes to a configuration, beside the fields.
_OF_TRANSFORMERS = frozenset({
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "fusion_config", "model_type",
    "name_or_path", "num_labels", "output_attentions", "per_layer_config", "quantization_config",
    "return_unused_kwargs", "torch_dtype", "transformers_weights",
})  # fmt: skip
# Options that say where and how files are loaded: never part of a configuration.
LOADING_OPTIONS = frozenset({
    "cache_dir", "code_revision", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
    "trust_remote_code", "use_safetensors", "variant", "weights_only",
})  # fmt: skip
# Options of `PreTrainedModel.from_pretrained` that pipelines give to the configuration as well.
OF_MODELS = frozenset({"device_map", "dtype", "low_cpu_mem_usage", "max_memory", "offload_folder"})


@strict
class TGDTConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TGDTModel`]: two homogeneous branches (arXiv 2306.08789, section III) over any vision and text
    encoder of transformers. The defaults are the correct mathematics; the last group of fields exists so that a
    checkpoint of the authors gives what their code gives.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to BERT):
            Configuration of the text encoder.
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the vision encoder, whose patches or cells become regions. `None` means that the model
            reads precomputed region features only.
        region_feature_size (`int`, *optional*, defaults to 2048):
            Width of a region feature. With a `vision_config` it is that encoder's output width.
        projection_dim (`int`, *optional*, defaults to 1024):
            Width D of global and token embeddings.
        num_region_layers (`int`, *optional*):
            Layers of the transformer over regions, at the width of the region features. Defaults to 4 (the released
            setting) without a vision encoder and to 0 with one, whose own layers do that work.
        num_local_layers (`int`, *optional*, defaults to 2):
            Layers of each local encoder (token embeddings).
        num_global_layers (`int`, *optional*, defaults to 2):
            Layers of each global encoder (global embedding), on top of the local one.
        share_local_encoder (`bool`, *optional*, defaults to `False`):
            Whether images and captions share one local encoder.
        encoder_layer_type (`str`, *optional*, defaults to `"post_norm"`):
            Layers of the region, local and global encoders: `"post_norm"` (paper and reference) or `"residual"`, which
            normalise before each block and start as the identity, so that a new model begins at what its backbones
            give. [`TGDTModel.from_vision_text_pretrained`] takes `"residual"` unless told otherwise.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of the region, local and global encoders.
        intermediate_size (`int`, *optional*, defaults to 2048):
            Feed-forward width of these encoders.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Feed-forward activation of these encoders.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on the sub-layer outputs and inside the feed-forward block.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on attention probabilities.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer normalisations.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        box_encoding (`str`, *optional*, defaults to `"concat"`):
            How boxes join region features: `"concat"` (feature, box and area through a two-layer perceptron), `"sum"`
            (a linear map of box and area is added) or `"none"`.
        box_initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of that linear map in the `"sum"` mode. Where words must tell
            places, start it at the size of the features: about 0.4 for features with a root mean square of 1.
        image_global_token (`str`, *optional*, defaults to `"mean"`):
            Input of the image's global slot: `"mean"` of the regions (paper), `"mean_max"`, their mean and maximum
            through a projection of its own (what fills a small part of the picture counts more), `"zeros"` (reference
            code) or what the vision encoder `"pooled"`, as in a dual encoder, whose first region is the whole image.
        text_global_token (`str`, *optional*, defaults to `"first"`):
            Input of the caption's global slot: the `"first"` position ([CLS]; paper and reference), the `"last"` one
            (causal encoders), or in a slot of its own, as images have it, the `"mean"` of all positions (sentence
            encoders are trained for it) or what the text encoder `"pooled"`, as in a dual encoder.
        detach_global_encoder (`bool`, *optional*, defaults to `False`):
            Whether gradients of the global encoder stop before the local encoder.
        num_prefix_tokens (`int`, *optional*, defaults to 1):
            Attended text positions at the start that are not words ([CLS]). While both counts are 1, the processor's
            `text_token_mask` says which positions are words, and the counts matter only where it is not given.
        num_suffix_tokens (`int`, *optional*, defaults to 1):
            Attended text positions at the end that are not words ([SEP]). Reference checkpoints use 2: they also drop
            the last word piece.
        word_weighting (`str`, *optional*, defaults to `"none"`):
            `"learned"`: a linear map of a word's embedding says how much it counts among the words of its caption. It
            starts at zero, where all count alike. The weight becomes the length of the word's embedding.
        similarity_reduction (`str`, *optional*, defaults to `"mean"`):
            Token similarity is the `"mean"` or the `"sum"` over words of the best region's cosine.
        similarity_scale (`float`, *optional*, defaults to 1.0):
            Factor of the token similarity, in the score as in the loss. Reference checkpoints use 10.
        global_score_weight (`float`, *optional*, defaults to 1.0):
            Weight of the global similarity in the mixed score.
        local_score_weight (`float`, *optional*, defaults to 1.0):
            Weight of the token similarity in the mixed score.
        objective (`str`, *optional*, defaults to `"hinge"`):
            `"hinge"` (paper), `"infonce"` or `"sigmoid"`.
        margin (`float`, *optional*, defaults to 0.2):
            Margin of the hinge on global similarity.
        local_margin (`float`, *optional*, defaults to 0.06):
            Margin of the hinge on token similarity, whose cost counts `margin / local_margin` times. A mean over words
            moves by 1/W at most when one of W words is wrong: 0.08 for a caption of twelve. Reference checkpoints
            use 0.2.
        intra_margin (`float`, *optional*, defaults to 0.3):
            Slack of the intra-modal consistency term.
        global_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the inter-modal term on global similarity.
        local_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the inter-modal term on token similarity.
        intra_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the intra-modal consistency term, a sum over the batch beside the `"hinge"` and a mean beside the
            other objectives, as they are themselves.
        hardest_negatives (`bool`, *optional*, defaults to `True`):
            Whether the hinge keeps each row's hardest negative only, or sums over all.
        temperature (`float`, *optional*, defaults to 0.05):
            Divides the global similarities in the `"infonce"` and `"sigmoid"` objectives.
        local_temperature (`float`, *optional*, defaults to 0.015):
            Divides the token similarities there, which spread less.
        sigmoid_bias (`float`, *optional*, defaults to -10.0):
            Added to the global logits of the `"sigmoid"` objective.
        local_sigmoid_bias (`float`, *optional*, defaults to -33.0):
            Added to its token logits. A pair is as likely a match as not where the similarity is minus the bias times
            the temperature: 0.5 in both terms.
        learnable_temperature (`bool`, *optional*, defaults to `False`):
            Whether the temperatures of both terms, and the biases of the sigmoid, are learned from these values on.
        distill_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of the term that distils token similarities into the global ones.
        distill_temperature (`float`, *optional*, defaults to 0.05):
            Divides the global similarities in that term; the token similarities are divided by
            `local_temperature / temperature` times as much.
        matryoshka_dims (`list[int]`, *optional*):
            Lengths below `projection_dim`, ascending, that global embeddings may be cut to (Matryoshka representation
            learning, arXiv 2205.13147): the loss adds the mean of the inter-modal term on the first numbers of the
            global embeddings, brought back to unit length. Token embeddings are never cut.
        token_source (`str`, *optional*, defaults to `"local"`):
            Which encoder gives the token embeddings: `"local"` or `"global"` (what the reference does while training).
        token_readout (`str`, *optional*, defaults to `"head"`):
            Where a vision encoder's patches are read. `"last"`: its last layer. `"head"`: the last layer, each patch
            alone through the attention pooling or pooler that the image passes through in a dual encoder (SigLIP,
            ViT). Both are one where there is no such module (CLIP). `"value"`: the value path of the last attention
            in place of the last layer, as MaskCLIP and ClearCLIP do without training; for encoders built like CLIP's
            or ViT's.
        padding_mode (`str`, *optional*, defaults to `"masked"`):
            `"masked"`: padding never changes a result. `"reference"`: padded positions enter the global encoders and
            padded regions enter the region maximum with similarity 0, as in batched runs of the reference.

    Example:

    ```python
    >>> from modeling_tgdt import TGDTConfig, TGDTModel

    >>> config = TGDTConfig(region_feature_size=64, projection_dim=32, num_region_layers=1)
    >>> config.similarity_reduction
    'mean'

    ```"""

    model_type = "tgdt"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    region_feature_size: int = 2048
    projection_dim: int = 1024
    num_region_layers: int | None = None
    num_local_layers: int = 2
    num_global_layers: int = 2
    share_local_encoder: bool = False
    encoder_layer_type: Literal["post_norm", "residual"] = "post_norm"
    num_attention_heads: int = 4
    intermediate_size: int = 2048
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    box_encoding: Literal["concat", "sum", "none"] = "concat"
    box_initializer_range: float = 0.02
    image_global_token: Literal["mean", "mean_max", "zeros", "pooled"] = "mean"
    text_global_token: Literal["first", "last", "mean", "pooled"] = "first"
    detach_global_encoder: bool = False
    num_prefix_tokens: int = 1
    num_suffix_tokens: int = 1
    word_weighting: Literal["none", "learned"] = "none"
    similarity_reduction: Literal["mean", "sum"] = "mean"
    similarity_scale: float | int = 1.0
    global_score_weight: float | int = 1.0
    local_score_weight: float | int = 1.0
    objective: Literal["hinge", "infonce", "sigmoid"] = "hinge"
    margin: float | int = 0.2
    local_margin: float | int = 0.06
    intra_margin: float | int = 0.3
    global_loss_weight: float | int = 1.0
    local_loss_weight: float | int = 1.0
    intra_loss_weight: float | int = 1.0
    hardest_negatives: bool = True
    temperature: float | int = 0.05
    local_temperature: float | int = 0.015
    sigmoid_bias: float | int = -10.0
    local_sigmoid_bias: float | int = -33.0
    learnable_temperature: bool = False
    distill_loss_weight: float | int = 0.0
    distill_temperature: float | int = 0.05
    matryoshka_dims: list[int] | None = None
    token_source: Literal["local", "global"] = "local"
    token_readout: Literal["head", "last", "value"] = "head"
    padding_mode: Literal["masked", "reference"] = "masked"

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown(kwargs, self.option_names(), type(self).__name__)
        super().__post_init__(**kwargs)
        vision_config = self.get_vision_config()
        if vision_config is not None:
            self.region_feature_size = backbone_width(vision_config)
        if self.num_region_layers is None:
            self.num_region_layers = _DEFAULT_REGION_LAYERS if vision_config is None else 0

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration from a dictionary, as `PreTrainedConfig.from_dict` does.

        Args:
            config_dict: Fields.
            **kwargs: Fields that replace those; with `return_unused_kwargs=True` others are given back.

        Raises:
            TypeError: For a name that is not a field.
        """
        if not kwargs.get("return_unused_kwargs"):
            refuse_unknown(kwargs, cls.option_names() | LOADING_OPTIONS | OF_MODELS, cls.__name__)
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return what a configuration takes: no attribute set by hand, no path that an encoder was loaded from."""
        known = self.option_names()
        content = {name: value for name, value in super().to_dict().items() if name in known or name.startswith("_")}
        for name in self.sub_configs:
            if content.get(name):
                content[name]["_name_or_path"] = ""
        auto_map = content.get("auto_map") or {}
        if "AutoModel" in auto_map:  # transformers notes one class; its zero-shot pipeline looks for another
            content["auto_map"] = {**auto_map, "AutoModelForZeroShotImageClassification": auto_map["AutoModel"]}
        return content

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names that a configuration takes: its fields, and what transformers adds to them."""
        return _OF_TRANSFORMERS | {field.name for field in fields(cast(Any, cls))}

    def validate_architecture(self) -> None:
        """Refuse sizes that no model can have.

        Raises:
            ValueError: When heads do not divide a width, or a count, length, margin, temperature or dropout is out of
                range.
        """
        widths = {"projection_dim": self.projection_dim}
        if self.num_region_layers:
            widths["region_feature_size"] = self.region_feature_size
        for name, width in widths.items():
            if width % self.num_attention_heads:
                raise ValueError(
                    f"{name} must be a multiple of num_attention_heads, found {width} and {self.num_attention_heads}."
                )
        counts = (
            "num_region_layers",
            "num_local_layers",
            "num_global_layers",
            "num_prefix_tokens",
            "num_suffix_tokens",
        )
        for name in counts:
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0, found {getattr(self, name)}.")
        dims = self.matryoshka_dims
        if dims is not None and not (
            dims and dims == sorted({*dims}) and 0 < dims[0] <= dims[-1] < self.projection_dim
        ):
            raise ValueError(
                f"matryoshka_dims must be ascending, from 1 and below projection_dim={self.projection_dim}, "
                f"found {dims}."
            )
        for name in ("local_margin", "temperature", "local_temperature", "distill_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}.")
        if self.learnable_temperature and self.objective == "hinge":
            raise ValueError("learnable_temperature needs the objective 'infonce' or 'sigmoid', found 'hinge'.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}.")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the configuration of the text encoder."""
        return cast(PreTrainedConfig, self.text_config)

    def get_vision_config(self) -> PreTrainedConfig | None:
        """Return the configuration of the vision encoder, or `None` in a model of precomputed regions."""
        return cast(PreTrainedConfig | None, self.vision_config)


class UnknownOptionError(TypeError, ValueError):
    """Raised for a keyword argument that nothing would read.

    A `TypeError` to users; transformers' Auto classes, which hand their own options to every configuration on the way,
    go on at a `ValueError`.
    """


def refuse_unknown(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Refuse names that nothing would read.

    Args:
        given: Names of keyword arguments; private ones, with a leading underscore, are transformers' own business.
        known: Names that are allowed.
        owner: What they are names of, for the message.

    Raises:
        UnknownOptionError: A TypeError, for the first unknown name, with the nearest known one.

    Example:
        >>> try:
        ...     refuse_unknown(["projection_dimm"], ["projection_dim"], "TGDTConfig")
        ... except TypeError as error:
        ...     print(error)
        Expected options of TGDTConfig, found 'projection_dimm'. Did you mean 'projection_dim'?
    """
    known = set(known)
    unknown = [name for name in given if name not in known and not name.startswith("_")]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Leave it out."
        raise UnknownOptionError(f"Expected options of {owner}, found {unknown[0]!r}. {hint}")


def backbone_width(config: PreTrainedConfig) -> int:
    """Return the channel count of a vision encoder's last feature map or token sequence.

    Args:
        config: Configuration of any vision encoder of transformers.

    Raises:
        ValueError: When the configuration names no width, such as a composite image-text configuration.
    """
    for name in ("hidden_sizes", "hidden_size", "embed_dim", "hidden_dim", "num_features"):  # the last is timm's
        width = getattr(config, name, None)
        if width is not None:
            return int(width if isinstance(width, int) else width[-1])
    raise ValueError(
        f"vision_config of type {config.model_type!r} has none of hidden_size, hidden_sizes, embed_dim, hidden_dim. "
        "Pass the vision tower's own configuration, for example CLIPConfig(...).vision_config."
    )


__all__ = ["TGDTConfig"]
