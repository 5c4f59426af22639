# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings as columns of a data set: a function for `datasets.Dataset.map`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_tgdt import TGDTModel, TGDTProcessor
from modeling_tgdt.encoding_tgdt import Embeddings, Encoder


@dataclass(frozen=True)
class ColumnEncoder:
    """Adds the embeddings of a column: `dataset.map(ColumnEncoder(model, processor), batched=True)`.

    It holds a model and a processor and nothing that changes, so `datasets` finds an earlier result in its cache; also
    where the model was in training mode meanwhile, which makes no difference here.

    Attributes:
        model: TGDTModel.
        processor: Its processor.
        column: Column of pictures or of texts; strings are texts.
        output: Prefix of the new columns: `<output>_embeds` (D,) and, with `tokens`, `<output>_token_embeds` (T, D).
            The name of the column by default.
        tokens: Whether to add the token embeddings, regions of a picture or words of a text.
        batch_size: Items per forward pass.

    Example:
        `photos.map(ColumnEncoder(model, processor), batched=True).add_faiss_index("image_embeds")`
    """

    model: TGDTModel
    processor: TGDTProcessor
    column: str = "image"
    output: str | None = None
    tokens: bool = False
    batch_size: int = 32

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Embed one batch of rows.

        Raises:
            ValueError: When the column is missing or holds lists, such as several captions per photo.
        """
        if self.column not in batch:
            raise ValueError(f"Expected a column {self.column!r} to encode, found {sorted(batch)}. Pass column=.")
        values = batch[self.column]
        if not isinstance(values, list):
            raise ValueError(f"Expected a batch of rows in column {self.column!r}. Call map with batched=True.")
        encoded = self._encode(values)
        name = self.output or self.column
        embeds: dict[str, Any] = {f"{name}_embeds": encoded.global_embeds}
        return embeds | ({f"{name}_token_embeds": encoded.token_embeds} if self.tokens else {})

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, and hashed by `datasets`: a model in evaluation mode that shares the weights."""
        weights = [*self.model.parameters(), *self.model.buffers()]
        return vars(self) | {"model": copy.deepcopy(self.model, {id(weight): weight for weight in weights}).eval()}

    def _encode(self, values: list[Any]) -> Embeddings:
        encoder = Encoder(self.model, self.processor)
        if any(isinstance(value, list) for value in values):
            raise ValueError(
                f"Column {self.column!r} holds lists. Make one row per item first, for instance one per caption."
            )
        encode = encoder.encode_texts if isinstance(values[0], str) else encoder.encode_images
        return encode(values, self.batch_size)


__all__ = ["ColumnEncoder"]
