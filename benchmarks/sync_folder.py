"""Follow a folder of pictures: seconds of `tgdt index --sync` after a few changes, beside building the gallery anew.

python -m benchmarks.sync_folder --photos 1000 --changes 10

Of as many pictures each: content changed, deleted, renamed, new. The gallery is compared with one that is built anew.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_tgdt import TGDTRetriever
from modeling_tgdt.retriever.syncing import RECORD, sync_folder

from .launch_index import tiny_retriever


def write(path: Path, seed: int) -> None:
    """Write a picture of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((256, 192), Image.Resampling.NEAREST).save(path)


def change(folder: Path, photos: int, changes: int) -> None:
    """Change, delete, rename and add `changes` pictures each."""
    names = sorted(folder.iterdir())
    groups = [names[start::4][:changes] for start in range(3)]
    for number, path in enumerate(groups[0]):
        write(path, photos + number)
    for path in groups[1]:
        path.unlink()
    for path in groups[2]:
        path.rename(path.with_stem(f"renamed-{path.stem}"))
    for number in range(changes):
        write(folder / f"new-{number}.jpg", photos + changes + number)


def compare(one: Any, other: Any) -> float:
    """Return the largest difference of a token; RuntimeError where items or rankings differ."""
    names = sorted(one.index)
    if names != sorted(other.index):
        raise RuntimeError(f"{len(names)} items instead of {len(other.index)}")
    queries = ["a red star above a blue ring", "a small square", "two things"]
    for own, found in zip(one.search(queries, top_k=20), other.search(queries, top_k=20), strict=True):
        if [hit.id for hit in own] != [hit.id for hit in found]:
            raise RuntimeError("the galleries rank differently")
    tokens = zip(one.index.tokens(names), other.index.tokens(names), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--model", help="default: a tiny random one, for which decoding counts more than embedding")
    options = parser.parse_args()
    loaded = TGDTRetriever.from_pretrained(options.model) if options.model else tiny_retriever()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "photos")
        folder.mkdir()
        for number in range(options.photos):
            write(folder / f"{number:05d}.jpg", number)
        retriever = TGDTRetriever(loaded.model, loaded.processor)
        retriever.create_index(Path(root, "gallery"))
        for what in ("all photos are new", "nothing changed", f"{options.changes} each changed"):
            if "each" in what:
                change(folder, options.photos, options.changes)
            began = time.perf_counter()
            found = sync_folder(retriever, folder, Path(root, RECORD), progress=False)
            taken = time.perf_counter() - began
            counts = f"{found.new} new, {found.changed} changed, {found.renamed} renamed, {found.deleted} deleted"
            print(f"{what}: {taken:.2f} s; {counts}, {found.unchanged} unchanged", flush=True)
        rebuilt = TGDTRetriever(loaded.model, loaded.processor)
        rebuilt.create_index(Path(root, "rebuilt"))
        began = time.perf_counter()
        rebuilt.add_images(folder, progress=False)
        print(f"built anew: {time.perf_counter() - began:.2f} s", flush=True)
        print(f"equal; largest token difference {compare(retriever, rebuilt):.2g}")


if __name__ == "__main__":
    main()
