# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What binary tokens keep of the int8 ranking, and how many bytes a search reads.

    python -m benchmarks.binary_tokens [--model M --dataset FLICKR8K_PARQUET_DIR --photos 300] [--out RESULTS.md]

Captions search a gallery of their photos in two stages, once with int8 tokens and once with binary ones. `kept` is the
share of the int8 top 10 that the binary top 10 holds. Read are the tokens of a query; resident is what a gallery of a
million such photos keeps busy: bits or tokens, int8 copies of the global embeddings, and offsets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from modeling_tgdt import TGDTIndex, TGDTRetriever
from modeling_tgdt.encoding_tgdt import Embeddings
from modeling_tgdt.gallery.local import RESCORED
from modeling_tgdt.kernels.quantize import bits_width
from trainer import load_captions
from trainer.scenes import make_scenes
from trainer.scenes.weights import MODEL, shipped

from .report import report

TOP_K = 10


def searched(index: TGDTIndex, queries: Embeddings, candidates: int) -> tuple[list[list[str]], float]:
    """Return the ranking of every query, and the milliseconds of one."""
    pairs = list(zip(queries.global_embeds, queries.token_embeds, strict=True))
    started = time.perf_counter()
    found = [index.search(vector[None], [words], top_k=TOP_K, candidates=candidates).ids[0] for vector, words in pairs]
    return found, 1000 * (time.perf_counter() - started) / len(pairs)


def row(index: TGDTIndex, tokens: float, candidates: int, ids: list[list[str]], int8: list[list[str]]) -> list[str]:
    """Return a row of the table but its recall and time."""
    whole, bits, binary = index.dim + 8, bits_width(index.dim), index.settings["token_dtype"] == "binary"
    rescored = min(candidates, RESCORED * TOP_K)
    read = candidates * bits + rescored * whole if binary else candidates * whole
    resident = tokens * (bits if binary else whole) + index.global_dim + 8 + 8
    kept = np.mean([len({*own} & {*other}) / len(other) for own, other in zip(ids, int8, strict=True)])
    shown = f"{kept:.1%}", f"{tokens * read / 1024:,.0f}", f"{resident * 1e6 / 2**30:.2f}"
    return [index.settings["token_dtype"], str(candidates), *shown]


def main() -> None:
    """Embed once, build both galleries, search with shortlists of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="default: the small model that comes with the package")
    parser.add_argument("--dataset", default="scenes", help="default: scenes drawn on the spot")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--out", help="Markdown file for the table")
    args = parser.parse_args()
    scenes = args.dataset == "scenes"
    photos = make_scenes(args.photos, seed=1) if scenes else load_captions(args.dataset, split=args.split)
    photos = photos.select(range(min(args.photos, len(photos))))
    retriever = TGDTRetriever.from_pretrained(shipped(args.model))
    images = retriever.encode_images(photos["image"])
    owners, captions = zip(*((str(n), text) for n, own in enumerate(photos["captions"]) for text in own), strict=True)
    queries = retriever.encode_texts(captions)
    rows = [["tokens", "shortlist", "kept", "KiB read", "GiB of a million", "t2i R@1", "R@10", "ms"]]
    with tempfile.TemporaryDirectory() as root:
        indexes = [retriever.create_index(Path(root, name), token_dtype=name) for name in ("int8", "binary")]
        for index in indexes:
            hubness = None if not index.has_hubness else np.zeros(len(photos), np.float32)
            names = [str(number) for number in range(len(photos))]
            index.add(names, images.global_embeds, list(images.token_embeds), hubness=hubness)
        count = float(np.mean([len(own) for own in images.token_embeds]))
        for candidates in args.candidates:
            int8: list[list[str]] = []
            for index in indexes:
                found, milliseconds = searched(index, queries, candidates)
                int8 = int8 or found
                recalls = [np.mean([own in ids[:k] for own, ids in zip(owners, found, strict=True)]) for k in (1, 10)]
                shown = [f"{100 * value:.1f}" for value in recalls]
                rows.append([*row(index, count, candidates, found, int8), *shown, f"{milliseconds:.1f}"])
    note = f"{len(photos)} photos of {count:.0f} tokens (D = {indexes[0].dim}), {len(captions)} captions. "
    report(rows, f"Binary tokens, {'scenes' if scenes else Path(args.dataset).name}", args.out, note)


if __name__ == "__main__":
    main()
