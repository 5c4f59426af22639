"""Cost against gallery size: time and resident memory of build, open and search, as a table and a plot.

    python -m benchmarks.scaling --sizes 1000 10000 100000
    python -m benchmarks.scaling --sizes 1000000 --limit-gib 4 --plot scaling.png

Each size runs in its own process, so its peak memory is its own. Embeddings are generated in a stream, D = 128 and
36 int8 tokens per image by default. Mapped files count as resident while the system keeps them cached, so `anonymous`
memory, which it cannot give back, is shown beside the peak; `--limit-gib` sets a hard limit on it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modeling_tgdt.index_tgdt import TGDTIndex

COLUMNS = ("images", "build_s", "disk_gib", "open_ms", "p50_ms", "p95_ms", "build_anon_mib", "anon_mib", "peak_mib")


def memory_mib(field: str) -> float:
    """A field of /proc/self/status in MiB; NaN where there is no such file."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), float("nan"))


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit vectors."""
    values = rng.standard_normal(shape, dtype=np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def build(path: Path, options: argparse.Namespace) -> float:
    """Stream a gallery to disk; return the seconds spent in the index, without the generator's."""
    rng, seconds = np.random.default_rng(0), 0.0
    with TGDTIndex.create(path, dim=options.dim, token_dtype=options.token_dtype, engine=options.engine) as index:
        for start in range(0, options.size, options.batch):
            count = min(options.batch, options.size - start)
            vectors, tokens = unit(rng, count, options.dim), unit(rng, count, options.tokens, options.dim)
            began = time.perf_counter()
            index.add([f"{start + i:09}" for i in range(count)], vectors, tokens)
            seconds += time.perf_counter() - began
        if options.engine != "exact":
            began = time.perf_counter()
            index.compact()
            seconds += time.perf_counter() - began
    return seconds


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Build, open and search one gallery."""
    if options.limit_gib:
        limit = int(options.limit_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        path = Path(root) / "gallery"
        build_s = build(path, options)
        build_anon = memory_mib("RssAnon")
        began = time.perf_counter()
        index = TGDTIndex.open(path)
        open_ms = (time.perf_counter() - began) * 1e3
        rng, times = np.random.default_rng(1), []
        for _ in range(options.queries + 3):
            query, words = unit(rng, 1, options.dim), unit(rng, 1, 11, options.dim)
            began = time.perf_counter()
            index.search(query, words, top_k=10, candidates=100)
            times.append((time.perf_counter() - began) * 1e3)
        p50, p95 = np.percentile(times[3:], [50, 95])
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**30
        values = (
            options.size,
            build_s,
            disk,
            open_ms,
            p50,
            p95,
            build_anon,
            memory_mib("RssAnon"),
            memory_mib("VmHWM"),
        )
    return dict(zip(COLUMNS, map(float, values), strict=True))


def plot(rows: list[dict[str, float]], path: str) -> None:
    """Draw the curves, when matplotlib is there."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("matplotlib is missing, so there is no plot; install it with `pip install 'tgdt[plot]'`")
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    sizes = [row["images"] for row in rows]
    for column, label in (("build_s", "build (s)"), ("open_ms", "open (ms)"), ("p50_ms", "search p50 (ms)")):
        axes[0].loglog(sizes, [row[column] for row in rows], marker="o", label=label)
    for column, label in (("anon_mib", "anonymous"), ("peak_mib", "peak, mapped files included")):
        axes[1].loglog(sizes, [row[column] for row in rows], marker="o", label=f"{label} (MiB)")
    for axis in axes:
        axis.set_xlabel("images")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run every size in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=36)
    parser.add_argument("--token-dtype", default="int8")
    parser.add_argument("--engine", default="exact", choices=["exact", "faiss"])
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gib", type=float, help="hard limit on anonymous memory")
    parser.add_argument("--directory", help="where the galleries are made (about 6 GiB per million images)")
    parser.add_argument("--plot", help="PNG to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.size:
        print(json.dumps(measure(options)))
        return
    rows = []
    print("".join(f"{column:>15}" for column in COLUMNS))
    for size in options.sizes:
        command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--size", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print("".join(f"{rows[-1][column]:15.2f}" for column in COLUMNS), flush=True)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
