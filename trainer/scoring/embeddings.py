# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a gallery in memory: global vectors, and token vectors without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RaggedTokens:
    """Token embeddings of N items, one after the other.

    Attributes:
        flat: (sum of T_i, D).
        offsets: (N + 1,) int64; item i owns the rows `offsets[i]` to `offsets[i + 1]`.
    """

    flat: Tensor
    offsets: Tensor

    @classmethod
    def from_padded(cls, tokens: Tensor, mask: Tensor) -> RaggedTokens:
        """Drop the padding.

        Args:
            tokens: (N, T, D).
            mask: Boolean (N, T), true for real tokens, anywhere in the row.
        """
        return cls.from_lengths(tokens[mask.bool()], mask.sum(1))

    @classmethod
    def from_lengths(cls, flat: Tensor, lengths: Tensor) -> RaggedTokens:
        """Cut rows into items.

        Args:
            flat: (sum of lengths, D).
            lengths: (N,) tokens of each item.
        """
        return cls(flat, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to("cpu", torch.int64))

    @classmethod
    def cat(cls, parts: Sequence[RaggedTokens]) -> RaggedTokens:
        """Join stores.

        Args:
            parts: Stores of one width D.
        """
        return cls.from_lengths(torch.cat([part.flat for part in parts]), torch.cat([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each item, (N,) int64."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> RaggedTokens:
        """Return the same store on a device; offsets stay on the CPU.

        Args:
            device: Where to score.
        """
        return RaggedTokens(self.flat.to(device), self.offsets)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return some items as one padded float32 tensor.

        Args:
            rows: (n,) item numbers.

        Returns:
            Tokens (n, T, D) and their mask (n, T), T being the longest item chosen, at least 1; padding is not zeroed.
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        width = max(1, int(lengths.max()) if len(rows) else 0)
        slots = torch.arange(width)
        mask = (slots < lengths[:, None]).to(self.flat.device)
        if not len(self.flat):
            return self.flat.new_zeros(len(rows), width, self.flat.shape[1]).float(), mask
        if len(self.flat) == width * len(self) and bool((self.lengths == width).all()):  # copy whole items, fast
            tokens = self.flat.view(len(self), width, -1).index_select(0, rows.to(self.flat.device))
            return tokens.float(), mask
        index = (starts[:, None] + slots).clamp(max=len(self.flat) - 1).flatten()
        tokens = self.flat.index_select(0, index.to(self.flat.device))
        return tokens.view(len(rows), width, -1).float(), mask

    def select(self, rows: Tensor) -> RaggedTokens:
        """Return chosen items as a store of their own.

        Args:
            rows: (n,) item numbers.
        """
        lengths = self.lengths[rows]
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        index = self.offsets[rows].repeat_interleave(lengths) + within
        return RaggedTokens.from_lengths(self.flat[index.to(self.flat.device)], lengths)


@dataclass(frozen=True)
class RetrievalEmbeddings:
    """I unique photos and T captions, ready for scoring.

    Attributes:
        image_embeds: Unit global embeddings (I, D).
        text_embeds: Unit global embeddings (T, D).
        text_to_image: (T,) int64, the photo of each caption; any number of captions per photo.
        image_tokens: Unit region embeddings, or None when only global scores are wanted.
        text_tokens: Unit word embeddings, or None.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    text_to_image: Tensor
    image_tokens: RaggedTokens | None = None
    text_tokens: RaggedTokens | None = None

    def __post_init__(self) -> None:
        images, texts = len(self.image_embeds), len(self.text_embeds)
        owners = self.text_to_image
        if not images or not texts:
            raise ValueError(f"Retrieval needs photos and captions, found {images} photos and {texts} captions.")
        if owners.shape != (texts,) or int(owners.min()) < 0 or int(owners.max()) >= images:
            raise ValueError(
                f"text_to_image must name one of {images} photos for each of {texts} captions, found shape "
                f"{tuple(owners.shape)} and values {int(owners.min())} to {int(owners.max())}."
            )
        for name, store, count in (("image", self.image_tokens, images), ("text", self.text_tokens, texts)):
            if store is not None and len(store) != count:
                raise ValueError(f"{name}_tokens holds {len(store)} items for {count} {name} embeddings.")

    def subset(self, images: Tensor) -> RetrievalEmbeddings:
        """Return some photos with their captions.

        Args:
            images: (n,) ascending photo numbers.
        """
        new_number = torch.full((len(self.image_embeds),), -1)
        new_number[images] = torch.arange(len(images))
        texts = (new_number[self.text_to_image] >= 0).nonzero()[:, 0]
        return RetrievalEmbeddings(
            self.image_embeds[images],
            self.text_embeds[texts],
            new_number[self.text_to_image[texts]],
            None if self.image_tokens is None else self.image_tokens.select(images),
            None if self.text_tokens is None else self.text_tokens.select(texts),
        )

    def to(self, device: torch.device | str) -> RetrievalEmbeddings:
        """Return the same embeddings on a device; bookkeeping stays on the CPU.

        Args:
            device: Where to score.
        """
        return RetrievalEmbeddings(
            self.image_embeds.to(device),
            self.text_embeds.to(device),
            self.text_to_image.cpu(),
            None if self.image_tokens is None else self.image_tokens.to(device),
            None if self.text_tokens is None else self.text_tokens.to(device),
        )
