# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Does a caption score its own picture above the one that differs in a single detail?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from modeling_tgdt.similarity_tgdt import ScoreConfig

from .embeddings import RetrievalEmbeddings
from .encoding import EncodeOptions, encode_dataset
from .positions import local_scores

ALL = "all"


def look_alike_accuracy(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    score: ScoreConfig | None = None,
    options: EncodeOptions | None = None,
) -> dict[str, dict[str, float]]:
    """Measure how often a caption scores its own picture above a look-alike; guessing gives 50 %.

    Args:
        model: TGDTModel.
        processor: TGDTProcessor.
        dataset: Captioned photos with `group_id`: photos of one group are look-alikes. The column `change`, where the
            data have it, names what sets a photo apart from its group's base, whose own is empty.
        score: Weights of the mixed score; as the model is configured when omitted.
        options: How to encode.

    Returns:
        Kind of change to `global`, `local` and `mixed`: percent of (caption, look-alike) pairs that each score tells
        apart, ties counting as failures; and `pairs`, their number. `"all"` joins the kinds.

    Raises:
        ValueError: When no photo has a look-alike with captions, or photos cannot be read.

    Example:
        >>> from trainer import look_alike_accuracy
        >>> look_alike_accuracy(model, processor, make_scenes(300, seed=1))["colours"]["mixed"]  # doctest: +SKIP
    """
    pairs = look_alike_pairs(dataset)
    if not pairs:
        raise ValueError("Expected photos that share a group_id, found none. Name look-alikes in that column.")
    embeddings = encode_dataset(model, processor, dataset, options)
    core = getattr(model, "module", model)
    return score_pairs(embeddings.to(core.device), pairs, score or ScoreConfig.of_model(core.config))


def look_alike_pairs(dataset: Any) -> dict[tuple[int, int], str]:
    """Return the pairs (photo, look-alike) of a data set, both ways, and what sets the two apart.

    Args:
        dataset: As in [`look_alike_accuracy`]. Photos count in the order in which their ids first appear.

    Raises:
        ValueError: When the data have no `group_id`.

    Example:
        >>> import datasets
        >>> rows = {"image_id": ["a", "b"], "group_id": ["a", "a"], "change": ["", "colours"]}
        >>> look_alike_pairs(datasets.Dataset.from_dict(rows))
        {(0, 1): 'colours', (1, 0): 'colours'}
    """
    if "group_id" not in dataset.column_names:
        raise ValueError(f"Expected a column group_id that names look-alikes, found {dataset.column_names}.")
    columns = [name for name in ("image_id", "group_id", "change") if name in dataset.column_names]
    table = dataset.with_format(None).select_columns(columns)[:]
    rows = {image_id: row for row, image_id in reversed(list(enumerate(table["image_id"])))}
    groups: dict[Any, list[tuple[int, str]]] = defaultdict(list)
    for photo, row in enumerate(sorted(rows.values())):
        if table["group_id"][row] is not None:
            groups[table["group_id"][row]].append((photo, table["change"][row] or "" if "change" in table else ""))
    return {
        (photo, other): " and ".join(sorted(filter(None, {change, base})))
        for members in groups.values()
        for photo, change in members
        for other, base in members
        if other != photo
    }


def score_pairs(
    embeddings: RetrievalEmbeddings, pairs: dict[tuple[int, int], str], score: ScoreConfig
) -> dict[str, dict[str, float]]:
    """Measure as [`look_alike_accuracy`] does, from embeddings.

    Args:
        embeddings: Photos and captions, with tokens.
        pairs: Photos and their look-alikes, see [`look_alike_pairs`].
        score: Weights of the mixed score.

    Raises:
        ValueError: When a photo of the pairs was not encoded, or none of them has a caption.
    """
    if max(map(max, pairs)) >= len(embeddings.image_embeds):
        raise ValueError("Some photos could not be read. Load the data with on_error='skip', which leaves them out.")
    others: dict[int, list[int]] = defaultdict(list)
    for photo, other in pairs:
        others[photo].append(other)
    hits: dict[str, list[list[bool]]] = defaultdict(list)
    for caption, photo in enumerate(embeddings.text_to_image.tolist()):
        if photo in others:
            items = torch.tensor([photo, *others[photo]])
            won = _won(embeddings, caption, items, score)
            for other, row in zip(others[photo], won.tolist(), strict=True):
                hits[pairs[photo, other] or ALL].append(row)
    if not hits:
        raise ValueError("None of the photos that have a look-alike has a caption.")
    kinds = {kind: rows for kind, rows in sorted(hits.items()) if kind != ALL}
    return {
        kind: _summary(rows) for kind, rows in {**kinds, ALL: [row for rows in hits.values() for row in rows]}.items()
    }


def _won(embeddings: RetrievalEmbeddings, caption: int, items: torch.Tensor, score: ScoreConfig) -> torch.Tensor:
    """Return whether the first of some photos beats each other one by global, local and mixed score, (n - 1, 3)."""
    whole = embeddings.image_embeds[items].float() @ embeddings.text_embeds[caption].float()
    local = local_scores(embeddings, "t2i", caption, items, score)
    scores = torch.stack([whole, local, score.mixed(whole, local)], dim=1)
    return scores[:1] > scores[1:]


def _summary(rows: list[list[bool]]) -> dict[str, float]:
    means = 100 * np.mean(rows, axis=0)
    return {**dict(zip(("global", "local", "mixed"), map(float, means), strict=True)), "pairs": len(rows)}
