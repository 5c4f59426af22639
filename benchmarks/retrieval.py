"""Two-stage search against the reference's loop, padded PyTorch and every installed peer, in one interleaved run.

    python -m benchmarks.retrieval                                # every workload
    python -m benchmarks.retrieval --workload f30k_t2i --queries 64 --rounds 5 --threads 1

Embeddings are synthetic and ready: only ranking is measured. Times are wall times per query of a batch, p50 and p95
those of single queries. `share` is the part of this machine's multiply-add peak, measured in the same run, that the
needed multiplications are. Read ratios, not times; `top1` is the agreement with exact float32.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.maxsim_tgdt import kernel_isa


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
    if kind == "text":
        return torch.tensor([module.maxsim_scores(part, own.numpy()[None])[0] for part in parts])
    step = max(1, 262_144 // (own.shape[1] * min(64, tokens.shape[1])))
    return sum(torch.from_numpy(module.maxsim_scores_variable(w.numpy(), parts)) for w in own.split(step))  # type: ignore


PEERS = {
    "sentence_transformers": sentence_transformers_scorer,
    "pylate": pylate_scorer,
    "colpali_engine": colpali_scorer,
    "late_interaction_kernels": late_interaction_scorer,
    "maxsim_cpu": maxsim_cpu_scorer,
}


def build(data: Data, root: Path, token_dtype: str) -> TGDTIndex:
    """Our index over the gallery."""
    index = TGDTIndex.create(root, dim=data.workload.dim, token_dtype=token_dtype, kind=data.workload.kind)
    for start in range(0, len(data.ids), 8192):
        block = slice(start, start + 8192)
        index.add(data.ids[block], data.globals[block], data.tokens[block])
    index.close()
    return TGDTIndex.open(root)


def ours(data: Data, index: TGDTIndex) -> tuple[Method, Callable[[], list[str]]]:
    """Our search for one query, and for all in one call."""

    def search(first: int, last: int) -> list[str]:
        result = index.search(data.queries[first:last], data.words[first:last], candidates=data.workload.candidates)
        return [names[0] for names in result.ids]

    return lambda query: search(query, query + 1)[0], lambda: search(0, len(data.queries))


def methods(data: Data, root: Path) -> Iterator[tuple[str, Method, Callable[[], list[str]]]]:
    """Every method that runs here: name, one query, all queries."""
    kind, everything = data.workload.kind, range(len(data.queries))
    for token_dtype in TOKEN_DTYPES:
        single, batch = ours(data, build(data, root / token_dtype, token_dtype))
        yield f"tgdt {token_dtype}", single, batch
    loops = {"reference loop": reference_loop(data), "torch padded": with_scorer(data, partial(torch_scorer, kind))}
    for name, scorer in PEERS.items():
        with suppress(ImportError):
            importlib.import_module(name)
            loops[name] = with_scorer(data, partial(scorer, kind))
    for name, loop in loops.items():
        yield name, loop, partial(lambda search: [search(query) for query in everything], loop)


def peak(dtype: torch.dtype, size: int = 1024) -> float:
    """Multiply-add peak of a square product, operations per second."""
    a = torch.ones(size, size, dtype=dtype)
    product = partial(torch._int_mm, a, a) if dtype == torch.int8 else partial(torch.mm, a, a)
    best = min(timed(product)[0] for _ in range(5))
    return 2 * size**3 / best


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def run(name: str, queries: int, rounds: int) -> None:
    """Measure one workload and print its table."""
    data = Data(WORKLOADS[name], queries)
    limits = {"float32": peak(torch.float32), "int8": peak(torch.int8)}
    limits["int16"] = limits["int8"] / 2
    with tempfile.TemporaryDirectory() as root:
        entries = list(methods(data, Path(root)))
        batch: dict[str, list[float]] = {entry[0]: [] for entry in entries}
        single: dict[str, list[float]] = {entry[0]: [] for entry in entries}
        best: dict[str, list[str]] = {}
        for _ in range(rounds):
            for method, one, many in entries:
                seconds, found = timed(many)
                batch[method].append(seconds / queries)
                best[method] = found  # type: ignore[assignment]
                single[method] += [timed(partial(one, query))[0] for query in range(min(queries, 16))]
    slow = np.median(batch["reference loop"])
    print(f"\n{name}: {data.workload}, {queries} queries, {torch.get_num_threads()} thread(s), {kernel_isa()}")
    print(f"{'method':26}{'ms/query':>10}{'x ref':>8}{'share':>8}{'p50 ms':>9}{'p95 ms':>9}{'top1':>7}")
    for method in batch:
        seconds = float(np.median(batch[method]))
        limit = limits.get(method.removeprefix("tgdt "), limits["float32"])
        share = data.multiplications() / limit / seconds
        p50, p95 = np.percentile(single[method], [50, 95]) * 1e3
        same = np.mean([a == b for a, b in zip(best[method], best["tgdt float32"], strict=True)])
        row = f"{seconds * 1e3:10.3f}{slow / seconds:8.1f}{share:8.0%}{p50:9.2f}{p95:9.2f}{same:7.3f}"
        print(f"{method:26}{row}", flush=True)


def main() -> None:
    """Parse the command line and run the workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in WORKLOADS if options.workload == "all" else [options.workload]:
        run(name, options.queries, options.rounds)


if __name__ == "__main__":
    main()
