"""Search a gallery in which many items are the same picture, so that their scores are equal, beside one without.

python -m benchmarks.ties
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modeling_tgdt import TGDTIndex

DIM, TOKENS, WORDS = 128, 4, 8


def fill(path: Path, items: int, tied: float, dtype: str) -> TGDTIndex:
    """Write a gallery of which a share is the picture that every query finds first."""
    rng = np.random.default_rng(0)
    vectors, tokens = rng.normal(size=(items, DIM)), rng.normal(size=(items, TOKENS, DIM))
    same = rng.random(items) < tied
    vectors[same], tokens[same] = 1.0, 1.0
    index = TGDTIndex.create(path, dim=DIM, token_dtype=dtype)
    names = [f"{number:08d}" for number in rng.permutation(items)]
    index.add(names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), tokens / DIM**0.5)
    return index


def milliseconds(index: TGDTIndex, queries: int, k: int, rounds: int) -> float:
    """Return the median CPU time per query of a search in two stages, `queries` at a time."""
    vectors = 1.0 + 0.1 * np.random.default_rng(1).normal(size=(queries, DIM))
    words = np.repeat(vectors[:, None], WORDS, axis=1)
    taken = []
    for _ in range(rounds + 2):
        began = time.process_time()
        index.search(vectors, words, top_k=k, candidates=max(k, 100))
        taken.append(time.process_time() - began)
    return 1000 * float(np.median(taken[2:])) / queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        for dtype in ("float32", "int8"):
            shares = (0.0, 0.1, 1.0)
            indexes = [fill(Path(root, f"{dtype}-{share}"), options.items, share, dtype) for share in shares]
            for queries, k in ((1, 10), (1, 100), (16, 10), (16, 100)):
                times = [milliseconds(index, queries, k, options.rounds) for index in indexes]
                shown = ", ".join(
                    f"{share:.0%} tied {taken:.2f} ms ({taken / times[0]:.1f})"
                    for share, taken in zip(shares, times, strict=True)
                )
                print(f"{dtype} tokens, {queries} queries at a time, k = {k}: {shown}")


if __name__ == "__main__":
    main()
