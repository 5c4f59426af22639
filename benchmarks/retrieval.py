"""Two-stage search against the reference's loop, padded PyTorch and every installed peer, in one interleaved run.

    python -m benchmarks.retrieval                                # every workload
    python -m benchmarks.retrieval --workload f30k_t2i --queries 64 --rounds 5 --threads 1

Embeddings are synthetic and ready: only ranking is measured. Times are wall times per query of a batch, p50 and p95
those of single queries. `share` is the part of this machine's multiply-add peak at the method's own dtype, measured in
the same run (`peak.cpp`), that the needed multiplications of both stages are. Read ratios, not times; `top-1` is the
agreement with exact float32. `qdrant` is its embedded engine with both stages pushed down to it. Where there is a GPU,
our search in its memory is measured too, without a share: the peak is the CPU's.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.kernels.maxsim import kernel_isa

from .report import command, limits, machine, write_section


@dataclass(frozen=True)
class Workload:
    """Sizes of one search task: gallery and queries are images or captions."""

    gallery: int
    kind: str
    dim: int
    candidates: int
    regions: int = 36
    words: tuple[int, int] = (7, 16)


WORKLOADS = {
    "f30k_t2i": Workload(1_000, "image", 1024, 100),
    "f30k_i2t": Workload(5_000, "text", 1024, 50),
    "coco5k_t2i": Workload(5_000, "image", 256, 100),
    "coco5k_i2t": Workload(25_000, "text", 256, 50),
    "gallery100k_t2i": Workload(100_000, "image", 128, 100),
}
QDRANT_MOST = 25_000  # larger galleries take it too long to load here
TOKEN_DTYPES = ("float32", "float16", "bfloat16", "int16", "int8")
SLOTS = {"image": 36, "text": 85}  # the reference pads to 37 and 88 slots and drops 1 and 3


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit vectors around a common direction, as trained embeddings have."""
    values = rng.standard_normal(shape, dtype=np.float32) + 0.03
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


class Data:
    """Gallery and queries of a workload: global vectors and token lists."""

    def __init__(self, workload: Workload, queries: int) -> None:
        rng = np.random.default_rng(0)
        self.workload = workload
        self.ids = [f"{i:07}" for i in range(workload.gallery)]
        self.globals, self.queries = unit(rng, workload.gallery, workload.dim), unit(rng, queries, workload.dim)
        image, text = self._images, self._texts
        stored, asked = (image, text) if workload.kind == "image" else (text, image)
        self.tokens, self.words = stored(rng, workload.gallery), asked(rng, queries)

    def _images(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        return list(unit(rng, count, self.workload.regions, self.workload.dim))

    def _texts(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        lengths = rng.integers(*self.workload.words, count, endpoint=True)
        return np.split(unit(rng, int(lengths.sum()), self.workload.dim), np.cumsum(lengths)[:-1])

    def multiplications(self) -> float:
        """Mean multiply-adds x 2 that one query needs, both stages."""
        pairs = np.mean([len(t) for t in self.tokens]) * np.mean([len(w) for w in self.words])
        return 2 * self.workload.dim * (self.workload.candidates * pairs + self.workload.gallery)


Method = Callable[[int], str]  # number of a query -> its best id
Entry = tuple[Method, Callable[[], list[str]]]  # one query, all queries


def padded(parts: list[np.ndarray], slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, slots, D) tokens and (N, slots) mask."""
    tokens, mask = torch.zeros(len(parts), slots, parts[0].shape[1]), torch.zeros(len(parts), slots, dtype=torch.bool)
    for place, part in enumerate(parts):
        tokens[place, : len(part)], mask[place, : len(part)] = torch.from_numpy(part), True
    return tokens, mask


def reference_loop(data: Data) -> Method:
    """The cost of the released evaluation: padded arrays, expanded products, a full numpy argsort, per query."""
    kind = data.workload.kind
    tokens, mask = padded(data.tokens, SLOTS[kind])
    words, word_mask = padded(data.words, SLOTS["text" if kind == "image" else "image"])

    def search(query: int) -> str:
        dots = data.globals @ data.queries[query]
        near = np.argsort(dots)[::-1][: data.workload.candidates].copy()
        own, own_mask = words[query : query + 1].expand(len(near), -1, -1), word_mask[query]
        images, texts = (tokens[near], own) if kind == "image" else (own, tokens[near])
        masks = (mask[near], own_mask.expand(len(near), -1))
        image_mask, text_mask = masks if kind == "image" else masks[::-1]
        grid = torch.matmul(images, texts.permute(0, 2, 1))
        grid = grid.masked_fill(~(image_mask[:, :, None] & text_mask[:, None, :]), 0)
        local = 10 * grid.max(dim=1).values.sum(dim=1)
        return data.ids[near[np.argsort(local.numpy() / 10 / text_mask.sum(1).numpy() + dots[near])[::-1][0]]]

    return search


def shortlist(data: Data) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """Stage one of the PyTorch methods and peers: one product with the transposed gallery, and topk."""
    gallery = torch.from_numpy(data.globals).T.contiguous()
    queries = torch.from_numpy(data.queries)

    def find(query: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.topk(queries[query : query + 1] @ gallery, data.workload.candidates)

    return find


Scorer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# words (W, D) or regions of the query, stored tokens (K, R, D), their mask -> sum over words of the best region (K,)


def with_scorer(data: Data, scorer: Scorer) -> Method:
    """Two-stage search whose second stage is a peer's function."""
    tokens, mask = padded(data.tokens, max(map(len, data.tokens)))
    words, find = [torch.from_numpy(np.ascontiguousarray(w)) for w in data.words], shortlist(data)

    def search(query: int) -> str:
        scores, near = (found[0] for found in find(query))
        local = scorer(words[query], tokens[near], mask[near])
        counts = len(words[query]) if data.workload.kind == "image" else mask[near].sum(1)
        return data.ids[int(near[(scores + local / counts).argmax()])]

    return search


def torch_scorer(kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Padded PyTorch."""
    grid = (tokens.flatten(0, 1) @ own.T).view(*tokens.shape[:2], -1)
    if kind == "image":
        return grid.masked_fill(~mask[:, :, None], -torch.inf).amax(1).sum(1)
    return grid.amax(2).masked_fill(~mask, 0).sum(1)


def sentence_transformers_scorer(
    kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """sentence-transformers `util.maxsim`."""
    maxsim = importlib.import_module("sentence_transformers.util").maxsim
    ones = torch.ones(1, len(own), dtype=torch.bool)
    if kind == "image":
        return maxsim(own[None], tokens, ones, mask)[0]
    return maxsim(tokens, own[None], mask, ones)[:, 0]


def pylate_scorer(kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """PyLate `scores.colbert_scores`."""
    score = importlib.import_module("pylate.scores").colbert_scores
    ones = torch.ones(1, len(own), dtype=torch.bool)
    if kind == "image":
        return score(own[None], tokens, queries_mask=ones, documents_mask=mask)[0]
    return score(tokens, own[None], queries_mask=mask, documents_mask=ones)[:, 0]


def colpali_scorer(kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """colpali-engine `score_multi_vector`."""
    processor = importlib.import_module("colpali_engine.utils.processing_utils").BaseVisualRetrieverProcessor
    parts = [part[keep] for part, keep in zip(tokens, mask, strict=True)]
    queries, passages = ([own], parts) if kind == "image" else (parts, [own])
    return processor.score_multi_vector(queries, passages, device="cpu").flatten()


def late_interaction_scorer(kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """late-interaction-kernels `MaxSimScorer(normalize=False)`."""
    scorer = importlib.import_module("late_interaction_kernels").MaxSimScorer(normalize=False)
    ones = torch.ones(1, len(own), dtype=torch.bool)
    if kind == "image":
        return scorer(own[None], tokens, ones, mask)[0]
    return scorer(tokens, own[None], mask, ones)[:, 0]


def maxsim_cpu_scorer(kind: str, own: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """maxsim-cpu; words split, because it crashes when min(64, Ld) x Lq x D > 262,144."""
    module = importlib.import_module("maxsim_cpu")
    parts = [part[keep].numpy() for part, keep in zip(tokens, mask, strict=True)]
    step = max(1, 262_144 // (own.shape[1] * min(64, max(len(own), tokens.shape[1]))))
    if kind == "text":
        return torch.tensor(
            [
                sum(module.maxsim_scores(p[i : i + step], own.numpy()[None])[0] for i in range(0, len(p), step))
                for p in parts
            ]
        )
    return sum(torch.from_numpy(module.maxsim_scores_variable(w.numpy(), parts)) for w in own.split(step))  # type: ignore


PEERS = {
    "sentence_transformers": sentence_transformers_scorer,
    "pylate": pylate_scorer,
    "colpali_engine": colpali_scorer,
    "late_interaction_kernels": late_interaction_scorer,
    "maxsim_cpu": maxsim_cpu_scorer,
}


def build(data: Data, root: Path, token_dtype: str, engine: str = "exact") -> TGDTIndex:
    """Our index over the gallery."""
    task = data.workload
    index = TGDTIndex.create(root, dim=task.dim, token_dtype=token_dtype, kind=task.kind, engine=engine)
    for start in range(0, len(data.ids), 8192):
        block = slice(start, start + 8192)
        index.add(data.ids[block], data.globals[block], data.tokens[block])
    index.close()
    return TGDTIndex.open(root)


def ours(data: Data, index: TGDTIndex) -> Entry:
    """Our search for one query, and for all in one call."""

    def search(first: int, last: int) -> list[str]:
        result = index.search(data.queries[first:last], data.words[first:last], candidates=data.workload.candidates)
        return [names[0] for names in result.ids]

    return lambda query: search(query, query + 1)[0], lambda: search(0, len(data.queries))


def methods(data: Data, root: Path, wanted: Callable[[str], bool]) -> dict[str, Entry]:
    """Every wanted method that runs here."""
    kind, everything = data.workload.kind, range(len(data.queries))
    found = {
        f"tgdt {token_dtype}": ours(data, build(data, root / token_dtype, token_dtype))
        for token_dtype in TOKEN_DTYPES
        if wanted(f"tgdt {token_dtype}")
    }
    if wanted("tgdt float16 cuda") and torch.cuda.is_available():
        found["tgdt float16 cuda"] = ours(data, build(data, root / "cuda", "float16").to("cuda"))
    if wanted("qdrant") and importlib.util.find_spec("qdrant_edge") and data.workload.gallery <= QDRANT_MOST:
        index = build(data, root / "qdrant", "float32", "qdrant")
        found[f"qdrant-edge-py {importlib.metadata.version('qdrant-edge-py')}"] = ours(data, index)
    loops: dict[str, Method] = {}
    if wanted("reference loop"):
        loops["reference loop"] = reference_loop(data)
    if wanted("torch padded"):
        loops["torch padded"] = with_scorer(data, partial(torch_scorer, kind))
    for name, scorer in PEERS.items():
        if not wanted(name):
            continue
        with suppress(ImportError):
            importlib.import_module(name)
            loops[f"{name} {importlib.metadata.version(name)}"] = with_scorer(data, partial(scorer, kind))
    for name, loop in loops.items():
        found[name] = loop, partial(lambda search: [search(query) for query in everything], loop)
    return found


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def run(name: str, options: argparse.Namespace) -> str:
    """Measure one workload, interleaving the methods, and return its table in Markdown."""
    data = Data(WORKLOADS[name], options.queries)
    with tempfile.TemporaryDirectory() as root:
        entries = methods(data, Path(root), lambda method: any(word in method for word in options.methods))
        batch: dict[str, list[float]] = {method: [] for method in entries}
        single: dict[str, list[float]] = {method: [] for method in entries}
        best: dict[str, object] = {}
        for _ in range(options.rounds):
            for method, (one, many) in entries.items():
                seconds, best[method] = timed(many)
                batch[method].append(seconds / options.queries)
                single[method] += [timed(partial(one, query))[0] for query in range(min(options.queries, 16))]
    task = data.workload
    shape = f"{task.gallery:,} {task.kind}s, D = {task.dim}, shortlist {task.candidates}"
    header = "| method | ms/query | x reference | share of limit | p50 ms | p95 ms | top-1 |\n|---" + "|---:" * 6 + "|"
    rows = [row(data, method, batch, single[method], best) for method in entries]
    peaks = ", ".join(f"{dtype} {value / 1e9:.0f}" for dtype, value in limits().items())
    return (
        f"{shape}; {options.queries} queries, {options.rounds} rounds; kernel {kernel_isa()}. {machine()}. "
        f"Limit in GOP/s: {peaks}.\n\n```\n{command()}\n```\n\n" + "\n".join([header, *rows])
    )


def row(data: Data, method: str, batch: dict[str, list[float]], single: list[float], best: dict[str, object]) -> str:
    """One line of the table; medians over the rounds."""
    seconds, slow = float(np.median(batch[method])), float(np.median(batch.get("reference loop", [np.nan])))
    peaks = limits()
    limit = peaks.get(method.removeprefix("tgdt "), peaks["float32"])
    share = np.nan if "cuda" in method else data.multiplications() / limit / seconds / torch.get_num_threads()
    p50, p95 = np.percentile(single, [50, 95]) * 1e3
    pairs = zip(best[method], best["tgdt float32"], strict=True) if "tgdt float32" in best else ()  # type: ignore
    same = np.mean([a == b for a, b in pairs] or [np.nan])
    return (
        f"| {method} | {seconds * 1e3:.3f} | {slow / seconds:.1f} | {share:.0%} | {p50:.2f} | {p95:.2f} | {same:.3f} |"
    )


def main() -> None:
    """Parse the command line and run the workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of the names of the methods to run")
    parser.add_argument("--out", help="Markdown file whose section on the workload is replaced")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in WORKLOADS if options.workload == "all" else [options.workload]:
        text = run(name, options)
        print(f"\n{name}\n{text}", flush=True)
        if options.out:
            write_section(options.out, f"Retrieval: {name}, {options.threads} thread(s)", text)


if __name__ == "__main__":
    main()
