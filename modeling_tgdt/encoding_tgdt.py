# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Pictures, regions and texts to embeddings, in batches of like size; the order of the result is that of the input."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .backbones_tgdt import text_positions
from .image_loading_tgdt import read_picture
from .modeling_tgdt import TGDTModel
from .processing_tgdt import TGDTProcessor
from .tokenizing_tgdt import check_padding


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Embeddings of N pictures or texts.

    Attributes:
        global_embeds: (N, D) float32, unit length.
        token_embeds: N arrays (Ti, D) float32, unit length: regions, or words without special tokens.
    """

    global_embeds: np.ndarray
    token_embeds: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.global_embeds)

    def item(self, row: int) -> Embeddings:
        """Return the embeddings of one item."""
        return Embeddings(self.global_embeds[[row]], [self.token_embeds[row]])

    def __repr__(self) -> str:
        tokens = sum(map(len, self.token_embeds))
        return f"Embeddings({len(self)} items of length {self.global_embeds.shape[1]}, {tokens} tokens)"


@dataclass(frozen=True)
class PreparedImage:
    """Model inputs of one picture, ready to be batched; decoding and resizing are done."""

    inputs: Mapping[str, Any]

    def group(self) -> Hashable:
        """What pictures must share to be encoded together; the number of regions may differ."""
        shapes = {name: np.shape(value) for name, value in self.inputs.items()}
        return tuple((name, shape if name == "pixel_values" else shape[2:]) for name, shape in sorted(shapes.items()))

    def length(self) -> int:
        """Number of regions; 0 for pixels."""
        return np.shape(self.inputs["region_mask"])[1] if "region_mask" in self.inputs else 0


def check_text(text: Any) -> str:
    """Return a text that can be tokenized.

    Raises:
        TypeError: When it is not a string.
        ValueError: When it holds half of a surrogate pair: a cut emoji, or a byte that is not UTF-8.
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected texts as strings, found {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text {text[:80]!r} is not valid Unicode: half of a surrogate pair at position {error.start}. "
            "Remove it, or decode the text again."
        ) from error
    return text


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode without gradients, and leave the model in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


class Encoder:
    """Runs the two branches of a model over batches.

    Args:
        model: The model; it is used in evaluation mode and left in the mode it was in.
        processor: Its processor.
    """

    def __init__(self, model: TGDTModel, processor: TGDTProcessor) -> None:
        self.model = model
        self.processor = fitted_processor(processor, model)

    def prepare_image(self, picture: Any, max_pixels: int | None = None, *, draft: bool = False) -> PreparedImage:
        """Read and preprocess one picture; safe to call from many threads.

        Args:
            picture: Path, URL, bytes, PIL picture, array, tensor, or `{"features", "boxes", "image_size"}` regions.
            max_pixels: Largest picture that is decoded, width x height; see `read_picture`.
            draft: Decode a JPEG at the smallest scale that leaves twice the model's pixels: faster, nearly the same.

        Raises:
            ValueError: When it cannot be read; the message says why.
            TypeError: When it is not a picture.
        """
        if isinstance(picture, PreparedImage):
            return picture
        if isinstance(picture, Mapping) and "features" in picture:
            return PreparedImage(self.processor(regions=picture, return_tensors="pt"))
        decoded = read_picture(picture, max_pixels=max_pixels, draft=self._draft_side() if draft else None)
        return PreparedImage(dict(self.processor(images=decoded, return_tensors="pt")))

    def _draft_side(self) -> int | None:
        """Return twice the longer side of the model's input; None where that follows from the picture."""
        sides = dict(self.processor.image_processor.size or {})
        known = [sides[key] for key in ("height", "width", "shortest_edge") if sides.get(key)]
        return 2 * max(known) if known else None

    def encode_images(self, images: Iterable[Any], batch_size: int = 32) -> Embeddings:
        """Embed pictures or regions; see `prepare_image` for what is accepted.

        Args:
            images: N pictures.
            batch_size: Pictures per forward pass.
        """
        return self._encode([self.prepare_image(image) for image in images], batch_size, self._image_features)

    def encode_texts(self, texts: Iterable[str], batch_size: int = 64) -> Embeddings:
        """Embed texts.

        Args:
            texts: N strings.
            batch_size: Texts per forward pass.

        Raises:
            TypeError: For a single string, or when an item is not a string.
            ValueError: When a text is not valid Unicode.
        """
        if isinstance(texts, str):
            raise TypeError(f"Expected a list of texts, found the single string {texts!r}. Pass [{texts!r}].")
        return self._encode([check_text(text) for text in texts], batch_size, self._text_features)

    def _encode(self, items: Sequence[Any], batch_size: int, features_of: Callable[..., Any]) -> Embeddings:
        vectors = np.zeros((len(items), self.model.config.projection_dim), dtype=np.float32)
        tokens: list[np.ndarray] = [vectors[:0]] * len(items)
        with evaluating(self.model):
            for rows in _batches(items, batch_size):
                features = features_of([items[row] for row in rows])
                vectors[rows] = _float32(features.pooler_output)
                states, masks = _float32(features.last_hidden_state), features.token_mask.cpu().numpy()
                for row, row_states, mask in zip(rows, states, masks, strict=True):
                    tokens[row] = row_states[mask]
        return Embeddings(vectors, tokens)

    def _image_features(self, images: Sequence[PreparedImage]) -> Any:
        inputs = {key: _stacked([image.inputs[key] for image in images]) for key in images[0].inputs}
        return self.model.get_image_features(**{key: value.to(self.model.device) for key, value in inputs.items()})

    def _text_features(self, texts: Sequence[str]) -> Any:
        return self.model.get_text_features(
            **self.processor(text=list(texts), return_tensors="pt").to(self.model.device)
        )


def fitted_processor(processor: TGDTProcessor, model: Any) -> TGDTProcessor:
    """Return a processor whose captions fit a model: a copy with shorter ones where the model has fewer positions.

    Args:
        processor: The processor; it stays as it is.
        model: TGDTModel.

    Raises:
        ValueError: When the tokenizer has more tokens than the model has embeddings, or no padding token.
    """
    check_padding(processor.tokenizer)
    rows, tokens = model.get_input_embeddings().weight.shape[0], len(processor.tokenizer)
    if tokens > rows:
        raise ValueError(
            f"Expected a tokenizer of at most {rows} tokens, the embeddings of the model's text encoder, found "
            f"{tokens}. Use that encoder's own tokenizer, or `model.resize_token_embeddings({tokens})` and training."
        )
    longest = text_positions(model.config.get_text_config())
    if longest is None or processor.max_caption_length <= longest:
        return processor
    fitted = copy.copy(processor)
    fitted.max_caption_length = longest
    known: Any = processor.text_kwargs
    fitted.text_kwargs = {**known, "max_length": min(known["max_length"], longest)}
    return fitted


def _batches(items: Sequence[Any], size: int) -> Iterable[list[int]]:
    """Yield row numbers of items that go together: texts or regions of like length, pictures of one shape."""
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, found {size}.")
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        groups["text" if isinstance(item, str) else item.group()].append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: len(items[row]) if isinstance(items[row], str) else items[row].length())
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _stacked(values: Sequence[Any]) -> Any:
    """Join (1, R, ...) tensors to (B, R, ...), padded with zeros or false to the largest R."""
    longest = max(value.shape[1] for value in values)
    return torch.cat([F.pad(v, (0, 0) * (v.ndim - 2) + (0, longest - v.shape[1])) for v in values])


def _float32(tensor: Any) -> np.ndarray:
    return tensor.float().cpu().numpy()


__all__ = ["Embeddings", "Encoder", "PreparedImage", "check_text", "evaluating", "fitted_processor"]
