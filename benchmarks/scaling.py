"""Cost against gallery size: time and resident memory of build, open and search, as a table and a plot.

    python -m benchmarks.scaling --sizes 1000 10000 100000
    python -m benchmarks.scaling --limit-gib 4 --plot docs/scaling.png --out benchmarks/RESULTS.md
    python -m benchmarks.scaling --engine faiss --engine-option min_rows=1 --clusters 2000 --sizes 100000 1000000

Each size runs in its own process, so its peak memory is its own. Embeddings are generated in a stream, D = 128 and
36 int8 tokens per image by default. Mapped files count as resident while the system keeps them cached, so `anonymous`
memory, which it cannot give back, is shown beside the peak; `--limit-gib` sets a hard limit on it. `recall` is that of
stage one. Seconds of build exclude the generator; with another engine than exact they include its own build.
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
from trainer.commands.common import parse_pairs

from .report import command, machine, write_section

COLUMNS = ("images", "build_s", "disk_gib", "build_anon_mib", "build_peak_mib", "open_ms", "p50_ms", "p95_ms")
COLUMNS += ("anon_mib", "recall")
_BLOCK = 1 << 14


def memory_mib(field: str) -> float:
    """A field of /proc/self/status in MiB; NaN where there is no such file."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), float("nan"))


def unit(rng: np.random.Generator, *shape: int, clusters: int = 0) -> np.ndarray:
    """Random unit vectors, around as many common centres (mean cosine 0.7) when there are any."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if clusters:
        centres = np.random.default_rng(7).standard_normal((clusters, shape[-1]), dtype=np.float32)
        values += centres[rng.integers(0, clusters, shape[:-1])]
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def build(path: Path, options: argparse.Namespace) -> float:
    """Stream a gallery to disk; return the seconds spent in the index, without the generator's."""
    rng, seconds = np.random.default_rng(0), 0.0
    chosen = parse_pairs("--engine-option", options.engine_option)
    with TGDTIndex.create(
        path, dim=options.dim, token_dtype=options.token_dtype, engine=options.engine, engine_options=chosen
    ) as index:
        for start in range(0, options.size, options.batch):
            count = min(options.batch, options.size - start)
            vectors = unit(rng, count, options.dim, clusters=options.clusters)
            tokens = unit(rng, count, options.tokens, options.dim)
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
        home = Path(options.keep or root)
        name = f"{options.engine}-{options.clusters}-{options.size}"
        path, notes = home / name, home / f"{name}.json"
        if notes.exists():  # built by an earlier run with --keep
            built = json.loads(notes.read_text())
        else:
            build_s = build(path, options)
            disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**30
            built = {"build_s": build_s, "disk_gib": disk, "build_anon_mib": memory_mib("RssAnon")}
            built["build_peak_mib"] = memory_mib("VmHWM")
            notes.write_text(json.dumps(built))
        began = time.perf_counter()
        index = TGDTIndex.open(path)
        open_ms = (time.perf_counter() - began) * 1e3
        rng, times = np.random.default_rng(1), []
        for _ in range(options.queries + 3):
            query, words = unit(rng, 1, options.dim, clusters=options.clusters), unit(rng, 1, 11, options.dim)
            began = time.perf_counter()
            index.search(query, words, top_k=10, candidates=100)
            times.append((time.perf_counter() - began) * 1e3)
        p50, p95 = np.percentile(times[3:], [50, 95])
        found = {"open_ms": open_ms, "p50_ms": p50, "p95_ms": p95, "anon_mib": memory_mib("RssAnon")}
        found["recall"] = recall(index, unit(rng, 16, options.dim, clusters=options.clusters))
    values = {"images": options.size, **built, **found}
    return {column: float(values[column]) for column in COLUMNS}


def recall(index: TGDTIndex, queries: np.ndarray, k: int = 100) -> float:
    """Share of the true k best of stage one, by a float64 product of everything, that the engine finds."""
    snapshot = index._backend.gallery.snapshot
    blocks = [s.globals[i : i + _BLOCK] for s in snapshot.segments for i in range(0, len(s), _BLOCK)]
    scores = np.concatenate([queries.astype(np.float64) @ block.T.astype(np.float64) for block in blocks], axis=1)
    shares = []
    for names, own in zip(index.search(queries, mode="global", top_k=k).ids, scores, strict=True):
        best = min(k, len(own))
        border = np.partition(own, -best)[-best] - 1e-6
        shares.append(np.mean([own[int(name)] >= border for name in names]))
    return float(np.mean(shares))


def table(rows: list[dict[str, float]]) -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---:|" * len(COLUMNS)]
    for row in rows:
        lines.append(f"| {row['images']:,.0f} | " + " | ".join(f"{row[column]:.2f}" for column in COLUMNS[1:]) + " |")
    return "\n".join(lines)


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
    for column, label in (("anon_mib", "anonymous"), ("build_peak_mib", "peak, mapped files included")):
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
    parser.add_argument("--engine-option", action="append", default=[], metavar="KEY=VALUE", help="value as JSON")
    parser.add_argument("--clusters", type=int, default=0, help="centres of the global embeddings (default: none)")
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gib", type=float, help="hard limit on anonymous memory")
    parser.add_argument("--directory", help="where the galleries are made (about 6 GiB per million images)")
    parser.add_argument(
        "--keep", help="existing directory whose galleries are kept, and searched again by a later run"
    )
    parser.add_argument("--plot", help="PNG to write")
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.size:
        print(json.dumps(measure(options)))
        return
    rows = []
    for size in options.sizes:
        task = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--size", str(size)]
        done = subprocess.run(task, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{machine()}.\n\n```\n{command()}\n```\n\n{table(rows)}"
    print(text)
    if options.out:
        clustered = f", {options.clusters:,} clusters" if options.clusters else ""
        write_section(options.out, f"Gallery size, engine {options.engine}{clustered}", text)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
