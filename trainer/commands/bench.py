# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt bench`: time of a query in each mode on this machine, and what a shortlist keeps."""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from trainer.commands.common import MODES, add_gallery_arguments, load_retriever

_SIZES = (10, 20, 50, 100, 200, 500, 1000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_gallery_arguments(parser)
    parser.add_argument(
        "--queries", metavar="FILE", help="one text per line (default: random words of the vocabulary)"
    )
    parser.add_argument("--count", type=int, default=50, help="queries per mode (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=10, help="results per query (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="size of the shortlist (default: %(default)s)")
    parser.add_argument(
        "--recall", type=float, default=0.99, help="for the suggested shortlist (default: %(default)s)"
    )
    parser.add_argument("--pool", type=int, nargs="+", metavar="N", help="what keeping a 1/N share of tokens costs")
    parser.add_argument("--seed", type=int, default=0, help="of the random words (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from modeling_tgdt.retriever.pooling import pooling_costs
    from modeling_tgdt.retriever.shortlist import shortlist_ranks, shortlist_recall, smallest_shortlist

    for name in ("count", "top_k", "candidates"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(args, name)}.")
    retriever = load_retriever(args)
    if len(retriever.index) == 0:
        raise ValueError("The gallery is empty. Add items with `tgdt index`.")
    queries = _queries(args, retriever.processor.tokenizer)
    result: dict[str, Any] = {
        "items": len(retriever.index),
        "queries": len(queries),
        "times_ms": _times(retriever, queries, args),
    }
    embeds = retriever.encode_texts(queries)
    ranks = shortlist_ranks(retriever.index, embeds, "text", args.top_k)
    sizes = [size for size in _SIZES if args.top_k <= size < len(retriever.index)]
    result["shortlist_recall"] = {str(k): shortlist_recall(ranks, k) for k in [*sizes, len(retriever.index)]}
    result["suggested_candidates"] = smallest_shortlist(ranks, args.recall)
    options = {"top_k": args.top_k, "candidates": args.candidates}
    costs = pooling_costs(retriever.index, embeds, "text", args.pool, **options) if args.pool else []
    result["pooling"] = [asdict(cost) for cost in costs]
    if args.json:
        print(json.dumps(result))
    else:
        _print_report(result, args)
    return 0


def _print_report(result: dict[str, Any], args: argparse.Namespace) -> None:
    print(f"{result['items']} items, {result['queries']} queries{'' if args.queries else ' of random words'}")
    for name, (p50, p95) in result["times_ms"].items():
        print(f"{name:<24}  p50 {p50:>9.3f} ms  p95 {p95:>9.3f} ms")
    print(f"share of the exhaustive top {args.top_k} that a shortlist keeps:")
    for size, share in result["shortlist_recall"].items():
        print(f"{size:>8} candidates  {share:.4f}")
    print(f"suggested: --candidates {result['suggested_candidates']} (keeps {args.recall:g})")
    for cost in result["pooling"]:
        print(
            "pool factor {factor}: {tokens:.1f} tokens, {bytes:.0f} bytes per item, "
            "keeps {recall:.4f} of the top results, {top_1:.4f} of the first".format(**cost)
        )


def _queries(args: argparse.Namespace, tokenizer: Any) -> list[str]:
    if args.queries is not None:
        lines = [line.strip() for line in Path(args.queries).read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{args.queries!r} holds no query. Write one per line.")
        return lines[: args.count]
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    if not words:
        raise ValueError("Expected plain words in the vocabulary, to ask for, found none. Pass --queries FILE.")
    chance = random.Random(args.seed)
    return [" ".join(chance.choices(words, k=chance.randint(5, 12))) for _ in range(args.count)]


def _times(retriever: Any, queries: list[str], args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return p50 and p95 in milliseconds of encoding a query, and of searching in each mode without encoding."""
    embeds = [retriever.encode_texts([query]) for query in queries]
    times = {"encode": _measure(lambda query: retriever.encode_texts([query]), queries)}
    for mode in MODES:
        search = partial(
            retriever.index.search, top_k=args.top_k, candidates=args.candidates, mode=mode, query_kind="text"
        )
        times[f"search {mode}"] = _measure(lambda e, s=search: s(e.global_embeds, e.token_embeds), embeds)
    return times


def _measure(call: Callable[..., Any], inputs: Sequence[Any]) -> tuple[float, float]:
    call(inputs[0])
    times = []
    for value in inputs:
        start = time.perf_counter()
        call(value)
        times.append(1000 * (time.perf_counter() - start))
    times.sort()
    return times[len(times) // 2], times[min(len(times) - 1, int(0.95 * len(times)))]
