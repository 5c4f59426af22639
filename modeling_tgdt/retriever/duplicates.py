# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Near-duplicates: items whose global embeddings are nearly the same, in a gallery and among the hits of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..index_tgdt import TGDTIndex

THRESHOLD = 0.95
_BLOCK, _NEIGHBORS = 256, 16


def find_duplicates(index: TGDTIndex, threshold: float = THRESHOLD) -> list[list[str]]:
    """Group the near-duplicates of a gallery.

    Args:
        index: The gallery.
        threshold: Cosine of the global embeddings from which two items are near-duplicates. Groups are what is
            connected by such pairs.

    Returns:
        Groups of at least two ids, the largest first, each in the order of the ids.

    Raises:
        ValueError: For a threshold that is not a cosine.
    """
    check_threshold(threshold)
    names = list(index)
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]  # halves the way for the next one that asks
            name = leader[name]
        return name

    for start in range(0, len(names), _BLOCK):
        block = names[start : start + _BLOCK]
        for name, near in zip(block, _neighbors(index, block, threshold), strict=True):
            for other in near:
                leader[find(other)] = find(name)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find(name), []).append(name)
    large = [sorted(group) for group in groups.values() if len(group) > 1]
    return sorted(large, key=lambda group: (-len(group), group))


def group_hits(vectors: np.ndarray, threshold: float) -> list[list[int]]:
    """Put every hit to the first better one that it nearly equals.

    Args:
        vectors: (N, D) global embeddings of the hits, best first.
        threshold: Cosine from which two are near-duplicates.

    Returns:
        Rows of each group, its best hit first; groups in the order of their best hits.

    Example:
        >>> group_hits(np.array([[1.0, 0], [0, 1], [1, 0.1]]), 0.9)
        [[0, 2], [1]]
    """
    check_threshold(threshold)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    groups: list[list[int]] = []
    for row in range(len(unit)):
        heads = [group[0] for group in groups]
        near = np.flatnonzero(unit[heads] @ unit[row] >= threshold).tolist() if heads else []
        if near:
            groups[near[0]].append(row)
        else:
            groups.append([row])
    return groups


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a threshold that is not a cosine above 0."""
    if not 0 < threshold <= 1:
        raise ValueError(f"Expected a cosine above 0 and at most 1 as threshold, found {threshold!r}.")


def _neighbors(index: TGDTIndex, names: Sequence[str], threshold: float) -> list[list[str]]:
    """Return for each item all others that are near; asks for more until the last one found is too far."""
    vectors = index.get(names)[0]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbors: list[list[str]] = [[] for _ in names]
    waiting, count = list(range(len(names))), _NEIGHBORS
    while waiting:
        result = index.search(vectors[waiting], mode="global", top_k=count, query_kind=index.kind)
        for row, ids, scores in zip(waiting, result.ids, result.scores, strict=True):
            near = scores >= threshold - 1e-6  # a copy's own cosine may be a rounding below 1
            neighbors[row] = [name for name, close in zip(ids, near, strict=True) if close and name != names[row]]
        waiting = [
            row for row, scores in zip(waiting, result.scores, strict=True)
            if len(scores) < len(index) and scores[-1] >= threshold - 1e-6
        ]  # fmt: skip
        count *= 4
    return neighbors


__all__ = ["THRESHOLD", "check_threshold", "find_duplicates", "group_hits"]
