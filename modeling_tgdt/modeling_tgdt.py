# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""PyTorch TGDT model: Token-Guided Dual Transformer (arXiv 2306.08789)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs
from typing_extensions import Unpack

from .backbones_tgdt import (
    build_backbone,
    check_adapter,
    copy_weights,
    is_causal,
    load_tower,
    offloaded_device,
    read_regions,
    read_words,
    split_loading_options,
)
from .configuration_tgdt import TGDTConfig, refuse_unknown
from .dual_encoders_tgdt import (
    check_model_type,
    copy_projection,
    dual_encoder_fields,
    load_dual_encoder,
    projection,
    text_width,
    value_layer,
)
from .heads_tgdt import (
    TGDTAttention,
    TGDTBoxEmbedding,
    TGDTEncoder,
    TGDTEncoderLayer,
    TGDTFeatures,
    TGDTLinear,
    TGDTOutput,
    check_regions,
    global_slot,
    masked_max,
    masked_mean,
    pick,
    run_layers,
    unit_tokens,
    unit_vectors,
)
from .loss_tgdt import CMCLoss, LogitScales
from .objectives_tgdt import PairEmbeddings
from .similarity_tgdt import mixed_score, token_similarity


class TGDTKwargs(TypedDict, total=False):
    """Options of a forward pass that reach both backbones."""

    output_hidden_states: bool | list[int]
    output_attentions: bool
    return_dict: bool
    interpolate_pos_encoding: bool


_KWARGS = tuple(TGDTKwargs.__annotations__)


class TGDTPreTrainedModel(PreTrainedModel):
    """Weights, loading and attention support shared by TGDT models."""

    config: TGDTConfig
    config_class = TGDTConfig
    base_model_prefix = "tgdt"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["TGDTEncoderLayer", "TGDTBoxEmbedding"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # the loss compares the pairs of a batch: no count of items scales it

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, LogitScales):
            module.reset_parameters()
        elif hasattr(module, "initializer_range"):
            init.normal_(module.weight, std=module.initializer_range)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class TGDTRegionEncoder(TGDTPreTrainedModel):
    """The transformer over regions, at the width of their features: what a backbone is to pixels."""

    gradient_checkpointing = False  # its layers say so too, but there may be none
    _can_record_outputs = {
        "hidden_states": OutputRecorder(TGDTEncoderLayer),
        "attentions": OutputRecorder(TGDTAttention, index=1),
    }

    def __init__(self, config: TGDTConfig) -> None:
        super().__init__(config)
        size, layers = config.region_feature_size, config.num_region_layers or 0
        self.layers = nn.ModuleList([TGDTEncoderLayer(config, size) for _ in range(layers)])
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, hidden_states: Tensor, mask: Tensor, **kwargs: Unpack[TGDTKwargs]) -> BaseModelOutput:
        """Encode (B, R, F) under a boolean key mask (B, R)."""
        return BaseModelOutput(last_hidden_state=run_layers(self.layers, self.config, hidden_states, mask))


class TGDTModel(TGDTPreTrainedModel):
    """Two homogeneous branches that give a global and token embeddings of images and captions in one pass.

    Args:
        config: Model configuration.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> from modeling_tgdt import TGDTConfig, TGDTModel
        >>> text = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> config = TGDTConfig(text_config=text, region_feature_size=16, projection_dim=32, num_region_layers=1)
        >>> model = TGDTModel(config).eval()
        >>> out = model(input_ids=torch.tensor([[101, 7, 8, 102]]), region_features=torch.rand(3, 5, 16))
        >>> tuple(out.logits_per_image.shape), tuple(out.text_token_embeds.shape)
        ((3, 1), (1, 4, 32))
    """

    def __init__(self, config: TGDTConfig) -> None:
        super().__init__(config)
        self.model_tags = ["tgdt", "image-text-retrieval"]  # of the card that push_to_hub writes
        size, dim = config.region_feature_size, config.projection_dim
        text_config, vision_config = config.get_text_config(), config.get_vision_config()
        pools = config.image_global_token == "pooled"
        self.vision_model = None if vision_config is None else build_backbone(vision_config, pools)
        if config.token_readout == "value":
            value_layer(self.vision_model)
        self.text_model = build_backbone(text_config, config.text_global_token == "pooled")
        if config.text_global_token == "first" and is_causal(self.text_model):
            raise ValueError(
                f"text_global_token='first' reads the first position, which in the causal {text_config.model_type!r} "
                "encoder knows no word of the text. Pass text_global_token='last' or 'mean', or take a dual encoder "
                "up whole with TGDTModel.from_dual_encoder_pretrained."
            )
        self.region_embedding = TGDTBoxEmbedding(config)
        self.region_encoder = TGDTRegionEncoder(config)
        self.visual_projection = nn.Linear(size, dim)
        self.visual_global_projection: nn.Linear | None = None
        if config.image_global_token == "mean_max":
            self.visual_global_projection = nn.Linear(2 * size, dim)
        self.text_projection = nn.Linear(text_width(text_config), dim)
        self.text_local_encoder = TGDTEncoder(config, dim, config.num_local_layers)
        if not config.share_local_encoder:
            self.vision_local_encoder = TGDTEncoder(config, dim, config.num_local_layers)
        self.text_global_encoder = TGDTEncoder(config, dim, config.num_global_layers)
        self.vision_global_encoder = TGDTEncoder(config, dim, config.num_global_layers)
        self.word_weight: nn.Linear | None = None
        if config.word_weighting == "learned":
            self.word_weight = TGDTLinear(dim, 1, initializer_range=0.0)  # all words weigh alike at first
        self.logit_scales: LogitScales | None = None
        if config.learnable_temperature:
            biases = (config.sigmoid_bias, config.local_sigmoid_bias) if config.objective == "sigmoid" else None
            self.logit_scales = LogitScales((config.temperature, config.local_temperature), biases)
        self.post_init()

    def initialize_weights(self) -> None:
        """Initialise what no checkpoint holds, backbones first.

        Below custom code transformers passes over modules without parameters of their own, such as CLIP's and SigLIP's
        `MLP`, which have a say in those of their layers.
        """
        for backbone in (self.vision_model, self.text_model):
            if isinstance(backbone, PreTrainedModel):
                backbone.initialize_weights()
        super().initialize_weights()

    # Embedding table of the text side, as resizing and PEFT expect it.
    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings of the text encoder."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text encoder."""
        self.text_model.set_input_embeddings(value)

    def encode_regions(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Turn pixels into regions with the vision encoder alone; what this gives can be cached and passed back in.

        Args:
            pixel_values: Images (B, C, H, W), preprocessed, or their patches (B, R, P) with `pixel_attention_mask` and
                `spatial_shapes`.
            **kwargs: Passed to the vision encoder.

        Returns:
            Features (B, R, F), boxes of the grid cells (B, R, 4), and a mask (B, R), true for real regions. Where
            `image_global_token` is `"pooled"`, the first region is the whole image.

        Raises:
            ValueError: When the model has no vision encoder.
        """
        return self._run_vision_model(pixel_values, **kwargs)[:3]

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        region_features: Tensor | None = None,
        region_boxes: Tensor | None = None,
        region_mask: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        **kwargs: Unpack[TGDTKwargs],
    ) -> TGDTFeatures:
        """Embed images given as pixels or as regions.

        Args:
            pixel_values: Images (B, C, H, W), or their patches (B, R, P) with the two arguments that follow last.
            region_features: Region features (B, R, F), from a detector or from [`TGDTModel.encode_regions`].
            region_boxes: Boxes (B, R, 4), xyxy in [0, 1]. Omitted: positions are unknown.
            region_mask: Boolean (B, R), true for real regions; all real when omitted.
            pixel_attention_mask: (B, R), 1 for patches and 0 for padding (SigLIP 2 NaFlex).
            spatial_shapes: Rows and columns of each image's patches (B, 2).
            **kwargs: Passed to the vision encoder, such as `output_hidden_states`.

        Returns:
            Unit global embeddings (`pooler_output`), unit region embeddings (`last_hidden_state`), `token_mask`.

        Raises:
            ValueError: When both or neither of pixels and regions are given, or shapes do not fit.
            TypeError: For an option that no encoder reads.
        """
        refuse_unknown(kwargs, _KWARGS, "TGDTModel's forward pass")
        if pixel_values is not None and region_features is None:
            patches = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
            options: Any = {**kwargs, **{name: value for name, value in patches.items() if value is not None}}
            region_features, region_boxes, region_mask, backbone = self._run_vision_model(pixel_values, **options)
        elif region_features is not None and pixel_values is None:
            backbone = None
        else:
            raise ValueError("Pass either pixel_values or region_features (with region_boxes), one of the two.")
        check_regions(region_features, region_boxes, region_mask, self.config.region_feature_size)
        region_features = region_features.to(self._head_dtype())
        if region_mask is None:
            region_mask = torch.ones(region_features.shape[:2], dtype=torch.bool, device=region_features.device)
        region_mask = region_mask.bool()
        recording = kwargs if backbone is None else {}
        tokens, pooled, encoded = self._encode_regions(region_features, region_boxes, region_mask, **recording)
        recorded = encoded if backbone is None else backbone
        whole = int(self.config.image_global_token == "pooled")  # the first region is the whole image, no token
        return TGDTFeatures(
            last_hidden_state=tokens,
            pooler_output=pooled,
            hidden_states=recorded.get("hidden_states"),
            attentions=recorded.get("attentions"),
            token_mask=region_mask[:, whole:],
            token_boxes=None if region_boxes is None else region_boxes[:, whole:],
        )

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        text_token_mask: Tensor | None = None,
        **kwargs: Unpack[TGDTKwargs],
    ) -> TGDTFeatures:
        """Embed captions.

        Args:
            input_ids: Token ids (B, W).
            attention_mask: (B, W), 1 for tokens and 0 for padding; all tokens when omitted.
            token_type_ids: Segment ids (B, W), for text encoders that know them.
            position_ids: Positions (B, W), for text encoders that take them.
            inputs_embeds: Embedded tokens (B, W, H) in place of `input_ids`.
            text_token_mask: (B, W), true for words: neither special tokens nor padding, as the processor says. Without
                it the first and the last attended position are taken for special tokens.
            **kwargs: Passed to the text encoder, such as `output_hidden_states`.

        Returns:
            Unit global embeddings (`pooler_output`), unit token embeddings (`last_hidden_state`), `token_mask`, which
            is true for words only.

        Raises:
            ValueError: When both or neither of `input_ids` and `inputs_embeds` are given.
            TypeError: For an option that no encoder reads.
        """
        refuse_unknown(kwargs, _KWARGS, "TGDTModel's forward pass")
        source = input_ids if inputs_embeds is None else inputs_embeds
        if source is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("Pass either input_ids or inputs_embeds, one of the two.")
        if attention_mask is None:
            attention_mask = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        hidden, whole, outputs = read_words(self.text_model, self.config, inputs, **kwargs)
        attended = attention_mask.bool()
        tokens, pooled = self._encode_words(hidden, attended, whole)
        mask = text_word_mask(self.config, attended, text_token_mask)
        tokens = self._weigh_words(unit_tokens(tokens, mask), mask)
        return TGDTFeatures(
            last_hidden_state=tokens,
            pooler_output=pooled,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            token_mask=mask,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        region_features: Tensor | None = None,
        region_boxes: Tensor | None = None,
        region_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_loss: bool | None = None,
        return_logits: bool = True,
        caption_ids: Tensor | None = None,
        num_pairs: int | None = None,
        text_token_mask: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        **kwargs: Unpack[TGDTKwargs],
    ) -> TGDTOutput:
        """Embed Bi images and Bt captions and score every pair.

        Args:
            input_ids: Token ids (Bt, W).
            attention_mask: (Bt, W), 1 for tokens and 0 for padding.
            pixel_values: Images (Bi, C, H, W), or `None` with regions.
            region_features: Region features (Bi, R, F).
            region_boxes: Boxes (Bi, R, 4), xyxy in [0, 1].
            region_mask: Boolean (Bi, R).
            image_ids: Integers (Bi,) naming each row's photo: captions of one photo are never each other's negatives.
            token_type_ids: Segment ids (Bt, W).
            position_ids: Positions (Bt, W).
            inputs_embeds: Embedded tokens (Bt, W, H) in place of `input_ids`.
            return_loss: Whether to compute the CMC loss; row i of the images belongs to row i of the captions.
            return_logits: Whether to score every pair. Training that computes its loss outside does not need it.
            caption_ids: Integers (Bt,) naming each row's text: captions that say the same are not negatives either.
            num_pairs: Aligned pairs at the start of both sides; the loss takes rows beyond them as hard negatives, see
                [`CMCLoss.forward`]. All rows when omitted.
            text_token_mask: (Bt, W), true for words, as the processor says.
            pixel_attention_mask: (Bi, R), 1 for patches, where `pixel_values` are patches (Bi, R, P).
            spatial_shapes: Rows and columns of each image's patches (Bi, 2).
            **kwargs: Passed to both backbones, such as `output_hidden_states`.

        Returns:
            Embeddings, masks, mixed similarities and, when asked for, the loss.

        Raises:
            ValueError: When a loss is asked for and the two batch sizes differ without `num_pairs`.
            TypeError: For an option that no encoder reads.
        """
        images = self.get_image_features(
            pixel_values, region_features, region_boxes, region_mask, pixel_attention_mask, spatial_shapes,
            return_dict=True, **kwargs,
        )  # fmt: skip
        texts = self.get_text_features(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, text_token_mask,
            return_dict=True, **kwargs,
        )  # fmt: skip
        scales = None if self.logit_scales is None else self.logit_scales(len(texts.pooler_output))
        loss = components = local = None
        if return_loss:
            loss, components, local = self._loss(images, texts, image_ids, caption_ids, scales, num_pairs)
        logits = self.similarity(images, texts, local_similarity=local) if return_logits else None
        return TGDTOutput(
            loss=loss,
            loss_components=components,
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            image_embeds=images.pooler_output,
            text_embeds=texts.pooler_output,
            image_token_embeds=images.last_hidden_state,
            text_token_embeds=texts.last_hidden_state,
            image_token_mask=images.token_mask,
            text_token_mask=texts.token_mask,
            logit_scales=scales,
            vision_model_output=images,
            text_model_output=texts,
        )

    def similarity(self, images: TGDTFeatures, texts: TGDTFeatures, local_similarity: Tensor | None = None) -> Tensor:
        """Return the mixed similarity (Bi, Bt) of embedded images and captions.

        Args:
            images: Output of [`TGDTModel.get_image_features`].
            texts: Output of [`TGDTModel.get_text_features`].
            local_similarity: Token similarities (Bi, Bt), where they are known already.
        """
        config = self.config
        if local_similarity is None:
            local_similarity = token_similarity(
                images.last_hidden_state,
                texts.last_hidden_state,
                self._similarity_mask(images.token_mask),
                texts.token_mask,
                reduction=config.similarity_reduction,
                scale=config.similarity_scale,
            )
        global_similarity = images.pooler_output @ texts.pooler_output.T
        weights = config.global_score_weight, config.local_score_weight
        return mixed_score(global_similarity, local_similarity, *weights).to(images.pooler_output.dtype)

    def loss_module(self) -> CMCLoss:
        """Return the CMC loss that the configuration describes."""
        config = self.config
        loss = CMCLoss(
            config.margin,
            config.intra_margin,
            config.global_loss_weight,
            config.local_loss_weight,
            config.intra_loss_weight,
            config.hardest_negatives,
            objective=config.objective,
            temperature=config.temperature,
            sigmoid_bias=config.sigmoid_bias,
            local_margin=config.local_margin,
            local_temperature=config.local_temperature,
            local_sigmoid_bias=config.local_sigmoid_bias,
            reduction=config.similarity_reduction,
            scale=config.similarity_scale,
            distill_weight=config.distill_loss_weight,
            distill_temperature=config.distill_temperature,
            matryoshka_dims=config.matryoshka_dims or (),
        )
        loss.logit_scales = self.logit_scales
        return loss

    def compute_loss(
        self, pairs: PairEmbeddings, *, loss_module: CMCLoss | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Compute the loss of a batch from its embeddings, which [`CMCLoss`] describes.

        Args:
            pairs: The embeddings.
            loss_module: The loss; that of the configuration when omitted.

        Returns:
            The loss, its detached unweighted components, and the token similarities where a component needed them.
        """
        loss_module = self.loss_module() if loss_module is None else loss_module
        terms = loss_module.terms(replace(pairs, image_mask=self._similarity_mask(pairs.image_mask)))
        return terms.loss, {name: value.detach() for name, value in terms.components.items()}, terms.local_similarity

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, strict: bool | None = None, **kwargs: Any
    ) -> Any:
        """Load a TGDT model; see `PreTrainedModel.from_pretrained` for the other options.

        Args:
            pretrained_model_name_or_path: Hub id or directory of a TGDT model.
            *model_args: Passed on.
            strict: Whether weights that are missing or have another shape are an error; otherwise they are new. True
                by default, unless the caller brings the weights (`state_dict`) or asks for the report of what was
                missing (`output_loading_info`).
            **kwargs: Passed on.

        Raises:
            ValueError: When it is another kind of model, or a weight is missing or has another shape.
        """
        if pretrained_model_name_or_path is not None:
            loading, _ = split_loading_options(kwargs)
            check_model_type(pretrained_model_name_or_path, cls.config_class.model_type, **loading)
        if strict is False:
            kwargs.setdefault("ignore_mismatched_sizes", True)
        wants_info = kwargs.pop("output_loading_info", False)
        if strict is None:
            strict = not wants_info and kwargs.get("state_dict") is None
        model: Any
        info: Any
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        known = {entry[0] for entry in info["mismatched_keys"]}
        # learned temperatures that a checkpoint lacks start at the configured ones: nothing is random
        absent = sorted(name for name in info["missing_keys"] if name not in known and "logit_scales." not in name)
        if strict and absent:
            raise ValueError(
                f"Expected all weights of a TGDT model in {str(pretrained_model_name_or_path)!r}, found {len(absent)} "
                f"missing, such as {', '.join(absent[:3])}. Pass strict=False to start them anew, for training."
            )
        return (model, info) if wants_info else model

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the weights, or where weights that were offloaded are run."""
        device: torch.device = super().device
        return device if device.type != "meta" else offloaded_device(self) or device

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Load an adapter of PEFT; see `PeftAdapterMixin.load_adapter`.

        Args:
            peft_model_id: Hub id or directory.
            *args: Passed on.
            **kwargs: Passed on.

        Raises:
            ValueError: When it is of a kind whose files name code or further models, which PEFT would load.
        """
        if peft_model_id is not None:
            loading = getattr(kwargs.get("load_config"), "download_kwargs", kwargs.get("download_kwargs")) or {}
            check_adapter(peft_model_id, **{**loading, **(kwargs.get("adapter_kwargs") or {})})
        return super().load_adapter(peft_model_id, *args, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model: str | None,
        text_model: str,
        *,
        dtype: torch.dtype | str | None = None,
        text_num_hidden_layers: int | None = None,
        **config_overrides: Any,
    ) -> "TGDTModel":
        """Put new TGDT encoders on pretrained backbones.

        Unless the overrides say otherwise, the new layers start as the identity (`encoder_layer_type="residual"`) and
        boxes are added (`box_encoding="sum"`): the model begins at what its backbones give.

        Args:
            vision_model: Hub id or directory of a vision encoder, or of an image-text model whose vision tower is
                taken; `None` for precomputed region features.
            text_model: Hub id or directory of a text encoder, or of an image-text model whose text tower is taken.
            dtype: Data type of the whole model, float32 when omitted.
            text_num_hidden_layers: Layers of the text encoder that are kept, from the first; the paper keeps six of
                BERT's twelve. All when omitted.
            **config_overrides: Fields of [`TGDTConfig`], and options of both loads such as `token`, `cache_dir` or
                `revision`; with `vision_` or `text_` in front (`text_revision`) of one of them.

        Returns:
            The model in evaluation mode, as `from_pretrained` gives it.

        Raises:
            TypeError: For an option that is none of these.

        Example:
            `TGDTModel.from_vision_text_pretrained("facebook/dinov2-base", "google-bert/bert-base-uncased")`
        """
        dtype = dtype or torch.float32
        loading, options = split_loading_options(config_overrides)
        vision_loading, options = split_loading_options(options, "vision_")
        text_loading, options = split_loading_options(options, "text_")
        refuse_unknown(options, cls.config_class.option_names(), cls.__name__)  # before anything is downloaded
        towers: dict[str, PreTrainedModel] = {"text": load_tower(text_model, "text", dtype, **loading | text_loading)}
        if vision_model is not None:
            towers["vision"] = load_tower(vision_model, "vision", dtype, **loading | vision_loading)
        if text_num_hidden_layers is not None:
            towers["text"].config.num_hidden_layers = text_num_hidden_layers
        fields: dict[str, Any] = {"encoder_layer_type": "residual", "box_encoding": "sum", **options}
        fields |= {f"{name}_config": tower.config for name, tower in towers.items()}
        model = cls._from_config(cls.config_class(**fields), dtype=towers["text"].dtype)
        for name, tower in towers.items():
            copy_weights(tower, getattr(model, f"{name}_model"))
        return model.eval()

    @classmethod
    def from_dual_encoder_pretrained(
        cls, name_or_path: str, *, dtype: torch.dtype | str | None = None, **config_overrides: Any
    ) -> "TGDTModel":
        """Take a pretrained dual encoder up as it is: CLIP, SigLIP, SigLIP 2, MetaCLIP 2, ALIGN, AltCLIP, ...

        Global embeddings are those of the source. Tokens (patches, words) go through the same projections; they are
        untrained as such, so `local_score_weight` is 0 until training or calibration. The encoders on top add nothing
        before they are trained. Scale and bias of the source become `temperature` and `sigmoid_bias`.

        Args:
            name_or_path: Hub id or directory of the dual encoder.
            dtype: Data type of the whole model, float32 when omitted.
            **config_overrides: Fields of [`TGDTConfig`]; download options such as `token` and `revision`.

        Returns:
            The model in evaluation mode; the same one in every call.

        Raises:
            ValueError: When it is not a dual encoder of a known family.
            TypeError: For an option that is none of these.

        Example:
            `TGDTModel.from_dual_encoder_pretrained("openai/clip-vit-base-patch32")`
        """
        loading, options = split_loading_options(config_overrides)
        refuse_unknown(options, cls.config_class.option_names(), cls.__name__)
        source, family = load_dual_encoder(name_or_path, dtype or torch.float32, **loading)
        fields = dual_encoder_fields(source, family) | options
        config = cls.config_class(
            text_config=source.config.text_config, vision_config=source.config.vision_config, **fields
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # new weights are the same in every call, so that a gallery knows its model
            model = cls._from_config(config, dtype=source.dtype)
        for tower in ("vision_model", "text_model"):
            copy_weights(getattr(source, tower), getattr(model, tower))
        copy_projection(projection(source, family.visual_projection), model.visual_projection)
        copy_projection(projection(source, family.text_projection), model.text_projection)
        model.name_or_path = str(name_or_path)
        return model.eval()

    def _loss(
        self, images: TGDTFeatures, texts: TGDTFeatures, *names: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Compute the loss of two embedded sides; `names` are the last fields of [`PairEmbeddings`]."""
        if names[-1] is None and len(images.pooler_output) != len(texts.pooler_output):
            raise ValueError(
                f"The loss compares aligned pairs, found {len(images.pooler_output)} images and "
                f"{len(texts.pooler_output)} captions. Pass one caption per image, num_pairs where rows beyond the "
                "pairs are hard negatives, or return_loss=False."
            )
        tokens = images.last_hidden_state, texts.last_hidden_state, images.token_mask, texts.token_mask
        return self.compute_loss(PairEmbeddings(images.pooler_output, texts.pooler_output, *tokens, *names))

    def _head_dtype(self) -> torch.dtype:
        weight = self.visual_projection.weight
        is_float = isinstance(weight, Tensor) and weight.is_floating_point()
        return weight.dtype if is_float else self.dtype  # quantised weights are integers, or a function

    def _similarity_mask(self, image_mask: Tensor) -> Tensor | None:
        # Masked rows are zero: without a mask they enter the maximum with similarity 0, as in the reference.
        return None if self.config.padding_mode == "reference" else image_mask

    def _run_vision_model(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor, ModelOutput]:
        """Return pixels as regions (B, R, F), their boxes (B, R, 4), mask (B, R), and all that the backbone gave."""
        if self.vision_model is None:
            raise ValueError(
                "This model reads region features, not pixels: its vision_config is None. Pass region_features, or "
                "build it with TGDTModel.from_vision_text_pretrained(vision, text)."
            )
        return read_regions(self.vision_model, self.config, pixel_values, **kwargs)

    def _encode_regions(
        self, features: Tensor, boxes: Tensor | None, mask: Tensor, **kwargs: Unpack[TGDTKwargs]
    ) -> tuple[Tensor, Tensor, ModelOutput]:
        features = features.masked_fill(~mask[..., None], 0)
        if boxes is not None:
            boxes = boxes.to(features.dtype).masked_fill(~mask[..., None], 0)
        if self.config.image_global_token != "pooled":
            slot, slot_box = global_slot(self.config.image_global_token, features, mask)
            features = torch.cat([slot, features], dim=1)
            boxes = None if boxes is None else torch.cat([slot_box, boxes], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        outputs = self.region_encoder(self.region_embedding(features, boxes), mask, **_recording(kwargs))
        encoder = self.text_local_encoder if self.config.share_local_encoder else self.vision_local_encoder
        projected = self.visual_projection(outputs.last_hidden_state)
        if self.visual_global_projection is not None:
            slot = self.visual_global_projection(torch.cat([features[:, :1], masked_max(features, mask)], dim=-1))
            projected = torch.cat([slot, projected[:, 1:]], dim=1)
        local = encoder(projected, mask)
        first = torch.zeros_like(mask[:, 0], dtype=torch.long)
        tokens, pooled = self._global(self.vision_global_encoder, local, mask, first)
        return unit_tokens(tokens[:, 1:], mask[:, 1:]), unit_vectors(pooled), outputs

    def _encode_words(self, hidden: Tensor, attended: Tensor, whole: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, W, D), not normalised, and global embeddings (B, D)."""
        source = self.config.text_global_token
        first = attended.int().argmax(-1)
        position = torch.arange(attended.shape[1], device=attended.device)
        keys = attended | (position[None] == first[:, None])  # an empty caption attends to its first position
        slot = first if source == "first" else keys.shape[1] - 1 - keys.flip(-1).int().argmax(-1)
        has_slot = source in ("mean", "pooled")
        if has_slot:
            start = masked_mean(hidden, keys) if whole is None else whole[:, None]
            hidden = torch.cat([start, hidden], dim=1)
            keys, slot = F.pad(keys, (1, 0), value=True), torch.zeros_like(first)
        local = self.text_local_encoder(self.text_projection(hidden), keys)
        tokens, pooled = self._global(self.text_global_encoder, local, keys, slot)
        return tokens[:, int(has_slot) :], unit_vectors(pooled)

    def _weigh_words(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return word embeddings whose lengths are the words' weights, 1 in the mean of a caption.

        A word counts by its best dot product with a unit region, so its length is its weight in the similarity: a mean
        over words becomes a weighted mean, in the loss, in a gallery and in explanations alike.
        """
        if self.word_weight is None:
            return tokens
        scores = self.word_weight(tokens)[..., 0].float().masked_fill(~mask, torch.finfo(torch.float32).min)
        weights = scores.softmax(-1) * mask.sum(-1, keepdim=True)
        return tokens * weights[..., None].to(tokens.dtype)

    def _global(self, encoder: TGDTEncoder, local: Tensor, keys: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of `token_source` (B, S, D) and the output of the global slot (B, D), not normalised."""
        states = local.detach() if self.config.detach_global_encoder else local
        mask = None if self.config.padding_mode == "reference" else keys
        if self.config.token_source == "local":
            return local, encoder(states, mask, slot)
        encoded = encoder(states, mask)
        return encoded, pick(encoded, slot)


def word_mask(attended: Tensor, num_prefix_tokens: int, num_suffix_tokens: int) -> Tensor:
    """Return which positions are words: attended, minus the first and last few attended ones.

    Args:
        attended: Boolean (B, W); padding may stand on either side.
        num_prefix_tokens: Special tokens before the words.
        num_suffix_tokens: Special tokens after the words.

    Returns:
        Boolean (B, W).

    Example:
        >>> import torch
        >>> word_mask(torch.tensor([[True, True, True, False]]), 1, 1).tolist()
        [[False, True, False, False]]
    """
    rank = attended.int().cumsum(-1)
    return attended & (rank > num_prefix_tokens) & (rank <= attended.sum(-1, keepdim=True) - num_suffix_tokens)


def text_word_mask(config: TGDTConfig, attention_mask: Tensor, text_token_mask: Tensor | None) -> Tensor:
    """Return which positions of texts are words, whose embeddings the score counts.

    Args:
        config: Configuration of the model.
        attention_mask: (B, W), true for tokens.
        text_token_mask: (B, W), true for words, as the processor says; it holds unless the configuration counts
            special tokens otherwise. Without it the first and the last attended position are not words.

    Returns:
        Boolean (B, W).
    """
    attended = attention_mask.bool()
    counts = config.num_prefix_tokens, config.num_suffix_tokens
    if text_token_mask is not None and counts == (1, 1):
        return attended & text_token_mask.bool()
    return word_mask(attended, *counts)


def _recording(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of [`TGDTRegionEncoder`]; the others are the backbones' own."""
    asked = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}
    return asked | {"return_dict": True}


__all__ = ["TGDTFeatures", "TGDTModel", "TGDTOutput", "TGDTPreTrainedModel", "text_word_mask", "word_mask"]
