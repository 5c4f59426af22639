"""A slow, obvious twin of TGDTIndex, and random galleries for both."""

from __future__ import annotations

import numpy as np

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 3e-2, "int16": 1e-3, "int8": 6e-2}


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def ragged(rng: np.random.Generator, items: int, most: int, dim: int, least: int = 0) -> list[np.ndarray]:
    return [unit(rng, int(rng.integers(least, most + 1)), dim) for _ in range(items)]


def local_similarity(words: np.ndarray, regions: np.ndarray, reduction: str, scale: float) -> float:
    if len(words) == 0 or len(regions) == 0:
        return 0.0
    total = 0.0
    for word in words:
        total += max(float(word @ region) for region in regions)
    return scale * (total / len(words) if reduction == "mean" else total)


class Twin:
    """A dict of items; every query scores every item in Python loops."""

    def __init__(self, *, kind="image", global_weight=1.0, local_weight=1.0, reduction="mean", scale=1.0) -> None:
        self.kind, self.weights, self.reduction, self.scale = kind, (global_weight, local_weight), reduction, scale
        self.items: dict[str, tuple[np.ndarray, np.ndarray, dict]] = {}

    def add(self, ids, globals_, tokens, metadata=None) -> None:
        for place, name in enumerate(ids):
            self.items[name] = (globals_[place], tokens[place], metadata[place] if metadata else {})

    def scores(self, query_global, query_tokens, query_kind=None, where=None) -> dict[str, tuple[float, float, float]]:
        found = {}
        for name, (vector, tokens, values) in self.items.items():
            if any(values.get(key) not in allowed for key, allowed in (where or {}).items()):
                continue
            sides = (query_tokens, tokens)
            if self.kind == "text" and query_kind in (None, "image"):
                sides = (tokens, query_tokens)
            local = local_similarity(*sides, self.reduction, self.scale)
            dot = float(query_global.astype(np.float64) @ vector)
            found[name] = (self.weights[0] * dot + self.weights[1] * local, dot, local)
        return found

    def search(self, query_global, query_tokens, *, top_k, candidates, mode, query_kind=None, where=None) -> list[str]:
        scores = self.scores(query_global, query_tokens, query_kind, where)

        def ranked(names, column):
            return sorted(names, key=lambda name: (-scores[name][column], name))

        if mode == "local":
            return ranked(scores, 2)[:top_k]
        if mode == "global":
            return ranked(scores, 1)[:top_k]
        return ranked(ranked(scores, 1)[:candidates], 0)[:top_k]
