# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The task "image-text-retrieval" of `transformers.pipeline`: rank texts for a picture, or pictures for a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .encoding_tgdt import Embeddings, Encoder
from .modeling_tgdt import TGDTFeatures

TASK = "image-text-retrieval"
_Pipeline: Any = Pipeline  # its methods are annotated for tasks of one input and no options


class ImageTextRetrievalPipeline(_Pipeline):
    """Scores every candidate with the mixed similarity; for a gallery that outgrows a list there is TGDTRetriever.

    Example:
        `pipe = pipeline("image-text-retrieval", model="user/repo"); pipe("beach.jpg", texts=["a dog", "the sea"])`
        or `pipe("a dog by the sea", images=["beach.jpg", "street.jpg"], top_k=1)`
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(
        self,
        *args: Any,
        texts: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.texts, self.images, self.top_k = texts, images, _checked(top_k)  # of calls that name none

    def __call__(
        self,
        query: Any,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        top_k: int | None = None,
        **options: Any,
    ) -> Any:
        """Rank the candidates for one query, or for each of a list, generator or dataset of queries.

        Args:
            query: With `texts` a picture (path, URL, bytes, PIL, array, tensor, or `{"features", "boxes",
                "image_size"}` regions); with `images` a text.
            texts: C candidate texts.
            images: C candidate pictures; give texts or images. Candidates are embedded once for all queries.
            top_k: How many to return; all by default. Candidates and top_k given to the constructor hold for every
                call that names none.
            **options: Of every pipeline: `batch_size` and `num_workers`.

        Returns:
            Best first, `{"score": mixed similarity, "index": place among the candidates, "text" or "image": the
            candidate}`; a list of such lists for a list of queries.

        Raises:
            ValueError: For both or no candidates, a picture that cannot be read, or a top_k below 1.
            TypeError: For a text that is not a string.
        """
        if texts is None and images is None:
            texts, images = self.texts, self.images
        if (texts is None) == (images is None):
            raise ValueError("Expected candidates: texts=[...] for a picture, or images=[...] for a text. Pass one.")
        top_k = self.top_k if top_k is None else _checked(top_k)
        kind, candidates = ("text", texts) if texts is not None else ("image", images)
        if isinstance(candidates, str) or not len(candidates or ()):
            raise ValueError(f"Expected a list of at least one candidate {kind}, found {candidates!r}.")
        return super().__call__(query, kind=kind, candidates=list(candidates or ()), top_k=top_k, **options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model, processor and the code of this task, so that `pipeline(..., trust_remote_code=True)` finds it.

        Args:
            save_directory: Made when missing.
            **kwargs: Of `PreTrainedModel.save_pretrained`.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self, kind: str = "text", candidates: list[Any] | None = None, top_k: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if candidates is None:
            return {}, {}, {}
        encoder = Encoder(self.model, self.processor)
        embeds = encoder.encode_texts(candidates) if kind == "text" else encoder.encode_images(candidates)
        features = _padded(embeds, self.model)
        return {"kind": kind}, {"kind": kind, "features": features}, {
            "kind": kind, "candidates": candidates, "top_k": top_k
        }  # fmt: skip

    def preprocess(self, query: Any, kind: str) -> dict[str, Any]:
        """Return the model's inputs for one query, a batch of one."""
        if kind == "text":
            return dict(Encoder(self.model, self.processor).prepare_image(query).inputs)
        if not isinstance(query, str):
            raise TypeError(f"Expected a text as a string, found {type(query).__name__}.")
        return dict(self.processor(text=[query], return_tensors="pt"))

    def _forward(self, inputs: dict[str, Any], kind: str, features: TGDTFeatures) -> dict[str, torch.Tensor]:
        if kind == "text":
            return {"scores": self.model.similarity(self.model.get_image_features(**inputs), features)}
        return {"scores": self.model.similarity(features, self.model.get_text_features(**inputs)).T}

    def postprocess(
        self, outputs: dict[str, torch.Tensor], kind: str, candidates: list[Any], top_k: int | None
    ) -> list[dict[str, Any]]:
        """Return the ranked candidates of one query from its scores (1, C)."""
        scores = outputs["scores"][0].float().numpy()
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [{"score": float(scores[index]), "index": index, kind: candidates[index]} for index in order]


def _checked(top_k: int | None) -> int | None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, found {top_k!r}.")
    return top_k


def _padded(embeds: Embeddings, model: Any) -> TGDTFeatures:
    """Return embeddings as a branch of the model gives them: tokens (C, T, D) with zeros behind each item's last."""
    tokens = [torch.from_numpy(item) for item in embeds.token_embeds]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    counts = torch.tensor([len(item) for item in tokens])
    return TGDTFeatures(
        last_hidden_state=padded.to(model.device, model.dtype),
        pooler_output=torch.from_numpy(embeds.global_embeds).to(model.device, model.dtype),
        token_mask=(torch.arange(padded.shape[1])[None] < counts[:, None]).to(model.device),
    )


__all__ = ["TASK", "ImageTextRetrievalPipeline"]
