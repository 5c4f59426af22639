"""Speed of the two branches in PyTorch and as ONNX graphs, on this CPU.

python -m benchmarks.onnx_runtime --model M --threads 1

Medians over interleaved rounds; inputs are prepared before. Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modeling_tgdt import TGDTRetriever
from trainer.scenes.weights import MODEL, shipped

TEXT = "a man in a red jacket rides his bike along a narrow path near the sea"


def seconds(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each piece of work."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(own)) for name, own in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="default: the small model that comes with the package")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    retriever = TGDTRetriever.from_pretrained(shipped(options.model))
    with tempfile.TemporaryDirectory() as folder:
        retriever.export_onnx(Path(folder))
        runtimes = {"PyTorch": retriever, "ONNX": TGDTRetriever.from_pretrained(folder, backend="onnx")}
        picture = retriever.prepare_image(Image.effect_noise((320, 240), 90).convert("RGB"))
        print("| what | " + " | ".join(f"{name}, ms" for name in runtimes) + " | ratio |\n|---|---:|---:|---:|")
        for what, count in (("texts", 1), ("texts", 32), ("pictures", 1), ("pictures", 16)):
            works: dict[str, Callable[[], object]] = {
                name: (lambda own=own, n=count: own.encode_texts([TEXT] * n)) if what == "texts"  # type: ignore[misc]
                else (lambda own=own, n=count: own.encode_images([picture] * n))  # type: ignore[misc]
                for name, own in runtimes.items()
            }  # fmt: skip
            first, second = (1000 * own for own in seconds(works, options.rounds).values())
            print(f"| {count} {what} | {first:.1f} | {second:.1f} | {first / second:.2f} |", flush=True)


if __name__ == "__main__":
    main()
