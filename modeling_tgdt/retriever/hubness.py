# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Hubness correction: items near every query are lowered (nearest-neighbour normalisation, arXiv 2410.24114)."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import cached_file

from ..similarity_tgdt import truncate

FILE = "reference_queries.safetensors"
_BLOCK = 4096  # items compared with the bank at a time


@dataclass(frozen=True)
class HubnessOptions:
    """A bank of reference queries, and how strongly it corrects global scores.

    An item's *hubness* is the mean of its highest similarities to the bank's queries of the other kind: of a picture
    to reference captions, of a caption to reference photos. `strength` times its hubness is subtracted from the global
    score of an item, whatever the query. No training is needed, and an item's correction is one number.

    The queries must be like those to come and must be none of them: training data of the model. A bank from another
    world than the gallery's can harm, so measure a labelled sample with and without it.

    Attributes:
        image_embeds: Unit global embeddings of reference photos (M, D).
        text_embeds: Unit global embeddings of reference captions (N, D).
        neighbors: How many of the highest similarities are averaged; at most the bank's size.
        strength: Factor of the hubness; 0 corrects nothing.

    Raises:
        ValueError: When the bank is empty, its shapes do not fit together, or a number is out of range.

    Example:
        >>> bank = HubnessOptions(torch.eye(2), torch.eye(2), neighbors=1, strength=0.5)
        >>> bank.corrections(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "image").tolist()
        [0.0, -0.25]
    """

    image_embeds: Tensor
    text_embeds: Tensor
    neighbors: int = 16
    strength: float = 0.75

    def __post_init__(self) -> None:
        shapes = tuple(self.image_embeds.shape), tuple(self.text_embeds.shape)
        if any(len(shape) != 2 or not shape[0] for shape in shapes) or shapes[0][1] != shapes[1][1]:
            raise ValueError(f"Expected reference photos (M, D) and captions (N, D) of one width D, found {shapes}.")
        if self.neighbors < 1 or not 0 <= self.strength < float("inf"):
            found = f"neighbors={self.neighbors!r}, strength={self.strength!r}"
            raise ValueError(f"Expected neighbors from 1 and strength from 0, found {found}.")

    def corrections(self, embeds: Tensor, kind: Literal["image", "text"]) -> Tensor:
        """Return what is subtracted from the global scores of items.

        Args:
            embeds: Global embeddings of the items (n, D).
            kind: What the items are.

        Returns:
            (n,) float32, on the CPU: `strength * (hubness - mean hubness of the bank's own items of that kind)`. The
            mean changes no ranking; it keeps corrected scores on the scale of a cosine.
        """
        return self.strength * (self._hubness(embeds, kind) - self._typical[kind])

    def truncated(self, dim: int) -> HubnessOptions:
        """Return the bank for global embeddings that are cut to `dim` numbers."""
        if dim == self.image_embeds.shape[1]:
            return self
        images, texts = truncate(self.image_embeds, dim), truncate(self.text_embeds, dim)
        return replace(self, image_embeds=images, text_embeds=texts)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `reference_queries.safetensors`, in float16; a reader finds the old file or the whole new one.

        Args:
            folder: Directory of the model.
        """
        tensors = {"image_embeds": self.image_embeds, "text_embeds": self.text_embeds}
        half = {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}
        settings = json.dumps({"neighbors": self.neighbors, "strength": self.strength})
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            whole = Path(staging) / FILE
            save_file(half, whole, {"hubness": settings})
            with whole.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(whole, Path(folder) / FILE)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **hub_options: Any) -> HubnessOptions | None:
        """Load the bank of a model; None when it has none.

        Args:
            name: Directory or Hub id of the model.
            **hub_options: Of `transformers.utils.cached_file`, such as `revision` and `token`.

        Raises:
            ValueError: When the file is damaged.
        """
        path = cached_file(str(name), FILE, _raise_exceptions_for_missing_entries=False, **hub_options)
        if path is None:
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name).float() for name in ("image_embeds", "text_embeds")}
                return cls(**tensors, **json.loads((file.metadata() or {})["hubness"]))
        except Exception as error:  # safetensors has an error class of its own for each kind of damage
            raise ValueError(
                f"{path!r} is not a bank that tgdt wrote ({error}). Remove it, or write it again with `tgdt train`."
            ) from error

    @cached_property
    def _typical(self) -> dict[str, float]:
        banks = {"image": self.image_embeds, "text": self.text_embeds}
        return {kind: float(self._hubness(embeds, kind).mean()) for kind, embeds in banks.items()}

    def _hubness(self, embeds: Tensor, kind: str) -> Tensor:
        queries = (self.text_embeds if kind == "image" else self.image_embeds).float().T
        size = min(self.neighbors, queries.shape[1])  # queries is (D, N), turned for the product
        blocks = embeds.to(queries.device).float().split(_BLOCK)
        return torch.cat([(block @ queries).topk(size).values.mean(1) for block in blocks] or [torch.zeros(0)]).cpu()


@dataclass(frozen=True)
class HubnessGain:
    """Share of sample queries whose known match was found.

    Attributes:
        corrected: With the hubness correction.
        plain: Without it. A bank that suits the gallery makes it smaller than `corrected`.
    """

    corrected: float
    plain: float


__all__ = ["FILE", "HubnessGain", "HubnessOptions"]
