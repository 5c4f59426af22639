# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the user waits for: one text query through the retriever and through `tgdt serve`, beside its encoding.

    python -m benchmarks.latency [--items 100000] [--threads 1] [--rounds 200] [--out benchmarks/RESULTS.md]

Model and gallery are those of `benchmarks.serve_gallery`, made on the spot. A round takes every way in turn, so other
work on the machine meets all of them alike; a query's two stages look at a shortlist of 100. The service has a process
of its own, with as many threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import torch

from modeling_tgdt import TGDTRetriever

from .report import report
from .serve_gallery import fill, make_retriever
from .serve_load import TEXTS, start_service, wait_until_healthy


def rounds_of(works: dict[str, Callable[[str], object]], count: int) -> dict[str, list[float]]:
    """Return the milliseconds of each way, round by round; the first ten rounds warm up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _, text in zip(range(count + 10), cycle(TEXTS), strict=False):
        for name, work in works.items():
            began = time.perf_counter()
            work(text)
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: own[10:] for name, own in taken.items()}


def measured(folder: str, threads: int, count: int) -> dict[str, list[float]]:
    """Time every way over the model and gallery of a directory."""
    retriever = TGDTRetriever.from_pretrained(folder)
    index = retriever.index
    if index is None:
        raise ValueError(f"Expected a gallery in {folder!r}, found none.")
    embeds = retriever.encode_texts(TEXTS[:1])
    address, process = start_service(folder, 128, threads)
    try:
        wait_until_healthy(address, process, 600.0)
        with httpx.Client(base_url=address) as client:
            ways: dict[str, Callable[[str], object]] = {
                "encoding of the text": lambda text: retriever.encode_texts([text]),
                "TGDTIndex.search, encoded before": lambda _: index.search(embeds.global_embeds, embeds.token_embeds),
                "TGDTRetriever.search": retriever.search,
                "tgdt serve, one client": lambda text: client.get("/search", params={"text": text}).raise_for_status(),
            }
            return rounds_of(ways, count)
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Make the gallery, take the times, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=36)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", help="Markdown file for the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        retriever = make_retriever()
        retriever.model.save_pretrained(folder)
        retriever.processor.save_pretrained(folder)
        fill(retriever, Path(folder, "index"), args.items, args.tokens)
        found = measured(folder, args.threads, args.rounds)
    base = float(np.median(found["encoding of the text"]))
    rows = [["one query", "p50, ms", "p95, ms", "times the encoding"]]
    for name, times in found.items():
        half, most = np.percentile(times, [50, 95])
        rows.append([name, f"{half:.1f}", f"{most:.1f}", f"{half / base:.2f}"])
    report(rows, "What the user waits for", args.out, f"{args.items:,} items of {args.tokens} int8 tokens. ")


if __name__ == "__main__":
    main()
