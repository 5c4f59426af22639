# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Time and peak memory of one forward and backward pass of the local loss, ours against two plain versions.

    python -m benchmarks.loss_memory [--batch-sizes 40 128 256 512] [--methods mined all-pairs einsum expand]
                                     [--out benchmarks/RESULTS.md]

36 regions, 32 words, D = 1024, the hinge with hardest negatives. Every measurement has a process of its own with a
limit on its address space, so that a version that does not fit is reported as such. "Peak" is resident memory above
what the process holds once its inputs exist: it counts the inputs' gradients, which no version can avoid.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from modeling_tgdt import CMCLoss, token_similarity
from modeling_tgdt.objectives_tgdt import both_ways, hinge

from .report import report

REGIONS, WORDS, DIM, MARGIN = 36, 32, 1024, 0.2
Masks = tuple[Tensor, Tensor]


def mined(images: Tensor, texts: Tensor, masks: Masks) -> Tensor:
    """Ours for this loss: score without gradient, differentiate the pairs that the hinge keeps."""
    loss = CMCLoss(MARGIN, global_weight=0, intra_weight=0, reduction="mean")
    return loss(None, None, images, texts, *masks)["loss"]


def all_pairs(images: Tensor, texts: Tensor, masks: Masks) -> Tensor:
    """Ours for any loss: autograd that keeps which region won."""
    return _hinge(token_similarity(images, texts, *masks, reduction="mean"))


def einsum(images: Tensor, texts: Tensor, masks: Masks) -> Tensor:
    """The formula as it stands."""
    return _hinge(_reduce(torch.einsum("ird,jwd->ijrw", images, texts), masks))


def expand(images: Tensor, texts: Tensor, masks: Masks) -> Tensor:
    """The reference's way: both sides expanded to every pair, then a batched product."""
    size = len(images)
    left = images[:, None].expand(size, size, REGIONS, DIM).reshape(-1, REGIONS, DIM)
    right = texts[None].expand(size, size, WORDS, DIM).reshape(-1, WORDS, DIM)
    return _hinge(_reduce((left @ right.transpose(1, 2)).view(size, size, REGIONS, WORDS), masks))


def _reduce(products: Tensor, masks: Masks) -> Tensor:
    regions, words = masks
    best = products.masked_fill(~regions[:, None, :, None], -1e9).max(2).values
    return (best * words[None]).sum(-1) / words.sum(-1)[None]


def _hinge(similarity: Tensor) -> Tensor:
    negatives = ~torch.eye(len(similarity), dtype=torch.bool)
    return hinge(both_ways(similarity), both_ways(negatives), MARGIN, hardest=True)


METHODS: dict[str, Callable[[Tensor, Tensor, Masks], Tensor]] = {
    "mined": mined,
    "all-pairs": all_pairs,
    "einsum": einsum,
    "expand": expand,
}


class PeakMemory:
    """Samples this process's resident memory while it is entered; `bytes` is the peak above the start."""

    def __enter__(self) -> "PeakMemory":
        self._process, self._stop = psutil.Process(), threading.Event()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = self._peak - self._start

    def _sample(self) -> None:
        while not self._stop.wait(0.001):
            self._peak = max(self._peak, self._process.memory_info().rss)


def inputs(size: int) -> tuple[Tensor, Tensor, Masks]:
    """Draw unit tokens with ragged masks."""
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(size, REGIONS, DIM), dim=-1).requires_grad_()
    texts = torch.nn.functional.normalize(torch.randn(size, WORDS, DIM), dim=-1).requires_grad_()
    regions = torch.arange(REGIONS)[None] < torch.randint(10, REGIONS + 1, (size, 1))
    words = torch.arange(WORDS)[None] < torch.randint(5, WORDS + 1, (size, 1))
    return images, texts, (regions, words)


def measure(method: str, size: int, threads: int) -> dict[str, float]:
    """Run one method in this process: once small to load the libraries, then once measured."""
    torch.set_num_threads(threads)
    run = METHODS[method]
    run(*inputs(4)).backward()
    images, texts, masks = inputs(size)
    with PeakMemory() as memory:
        start = time.perf_counter()
        loss = run(images, texts, masks)
        loss.backward()
        seconds = time.perf_counter() - start
    assert images.grad is not None and texts.grad is not None
    norm = torch.stack([images.grad.norm(), texts.grad.norm()]).norm().item()
    return {"seconds": seconds, "megabytes": memory.bytes / 1e6, "loss": loss.item(), "gradient": norm}


def measure_apart(method: str, size: int, threads: int, limit_gb: float) -> dict[str, float] | str:
    """Measure in a process of its own under a memory limit; a string says how it failed."""
    limit = int(limit_gb * 1e9)
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.loss_memory", "--measure", method, str(size), "--threads", str(threads)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1])
    if "not enough memory" in result.stderr or "alloc" in result.stderr:
        return f"does not fit in {limit_gb:g} GB"
    return f"failed: {result.stderr.strip().splitlines()[-1] if result.stderr.strip() else result.returncode}"


def main() -> None:
    """Print one row per batch size and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[40, 128, 256, 512])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gb", type=float, default=12.0, help="address space of each measurement")
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], int(args.measure[1]), args.threads)))
        return
    torch.set_num_threads(args.threads)
    rows = [["batch and method", "seconds", "peak MB", "loss", "norm of the gradient"]]
    for size in args.batch_sizes:
        for method in args.methods:
            found = measure_apart(method, size, args.threads, args.limit_gb)
            if isinstance(found, str):
                rows.append([f"{size} {method}", found, "-", "-", "-"])
                continue
            values = f"{found['seconds']:.3f} {found['megabytes']:.1f} {found['loss']:.4f} {found['gradient']:.4f}"
            rows.append([f"{size} {method}", *values.split()])
    report(rows, "Loss", args.out)


if __name__ == "__main__":
    main()
