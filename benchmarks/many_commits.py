"""Open and search a gallery that was filled by very many commits of one item, beside the same one compacted.

python -m benchmarks.many_commits --items 10000
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from modeling_tgdt import TGDTIndex

DIM, TOKENS = 64, 16


def opened(path: Path, rounds: int = 15) -> tuple[float, float, int]:
    """Return milliseconds to open, and to open and answer a query (medians), and descriptors that stay open."""
    rng = np.random.default_rng(0)
    query, words = rng.normal(size=(1, DIM)), rng.normal(size=(1, 5, DIM))
    taken, descriptors = [], 0
    for _ in range(rounds):
        before = len(os.listdir("/proc/self/fd"))
        began = time.perf_counter()
        index = TGDTIndex.open(path)
        middle = time.perf_counter()
        index.search(query, words)
        taken.append((middle - began, time.perf_counter() - began))
        descriptors = len(os.listdir("/proc/self/fd")) - before
    first, both = np.median(taken, axis=0) * 1000
    return float(first), float(both), descriptors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "gallery")
        began = time.perf_counter()
        with TGDTIndex.create(path, dim=DIM) as index:
            for number in range(options.items):
                vectors = rng.normal(size=(1, DIM))
                index.add([f"{number:06d}"], vectors, rng.normal(size=(1, TOKENS, DIM)), metadata={"n": [number]})
        each = (time.perf_counter() - began) / options.items
        shutil.copytree(path, Path(root, "compacted"))
        with TGDTIndex.open(Path(root, "compacted")) as index:
            index.compact()
        print(f"{options.items} commits of one item, {1000 * each:.1f} ms each")
        rows = {name: opened(Path(root, name)) for name in ("gallery", "compacted")}
        for name, (first, both, descriptors) in rows.items():
            segments = len(list(Path(root, name).glob("segment-*")))
            print(
                f"{name}: {segments} segments, open {first:.2f} ms, with a query {both:.2f} ms, "
                f"{descriptors} descriptors stay open"
            )
        ratios = [a / b for a, b in zip(rows["gallery"][:2], rows["compacted"][:2], strict=True)]
        print(f"times the compacted gallery: open {ratios[0]:.1f}, with a query {ratios[1]:.1f}")


if __name__ == "__main__":
    main()
