# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt search`: words or a picture in, ranked items out, as a table, JSON lines or a contact sheet."""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.commands.common import MODES, add_gallery_arguments, load_retriever, parse_where, pictures_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_gallery_arguments(parser)
    parser.add_argument("words", nargs="*", metavar="WORDS", help="what to search for")
    parser.add_argument("--image", metavar="FILE", help="search with a picture; with words, for both")
    parser.add_argument("--and", dest="also", action="append", default=[], metavar="WORDS", help="and for this")
    parser.add_argument("--not", dest="without", action="append", default=[], metavar="WORDS", help="and not for this")
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="of words, --image, each --and, each --not, in this order (default: 1, and 0.5 for --not)",
    )
    parser.add_argument(
        "--min-score", metavar="S", help="leave out hits below a number, or `fitted`: below G's fitted threshold"
    )
    parser.add_argument(
        "--group-similar",
        type=float,
        metavar="COSINE",
        help="show near-duplicates under the better hit; 0.95 for instance",
    )
    parser.add_argument("--top-k", type=int, default=10, help="results (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="size of the shortlist (default: %(default)s)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="two_stage",
        help="default: %(default)s, which is global where the model's tokens are untrained",
    )
    parser.add_argument("--global-weight", type=float, help="weight of the global score")
    parser.add_argument("--local-weight", type=float, help="weight of the token score")
    parser.add_argument("--no-hubness", action="store_true", help="without the gallery's hubness correction")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only such items: year=2024, year>=2021, year!=2021, place^=New, or a filter as JSON; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--sheet", metavar="FILE", help="also draw the results into a picture")
    parser.add_argument("--pictures", metavar="DIR", help="folder that was indexed, for --sheet")


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    query = _query(args)
    retriever = load_retriever(args)
    hits = retriever.search(
        query,
        top_k=args.top_k,
        candidates=args.candidates,
        mode=args.mode,
        where=parse_where(args.where),
        global_weight=args.global_weight,
        local_weight=args.local_weight,
        hubness=not args.no_hubness,
        min_score=_min_score(args),
        group_similar=args.group_similar,
    )
    if args.json:
        for rank, hit in enumerate(hits, start=1):
            row = {key: value for key, value in asdict(hit).items() if key != "matches"}
            if args.group_similar is None:
                del row["similar"]
            print(_json({"rank": rank, **row}))
    else:
        print_table(hits)
    if args.sheet is not None:
        _draw_sheet(hits, pictures_folder(args), args.sheet)
    return 0


def _query(args: argparse.Namespace) -> Any:
    """Return words, a picture, or what several of them make."""
    wanted: list[Any] = [" ".join(args.words)] if args.words else []
    wanted += [] if args.image is None else [Path(args.image)]
    wanted += args.also
    if not wanted:
        raise ValueError("Expected words or --image FILE, found neither.")
    parts = [*wanted, *args.without]
    if len(parts) == 1 and args.weights is None:
        return parts[0]
    from modeling_tgdt.retriever.composed import ComposedQuery

    weights = args.weights or [1.0] * len(wanted) + [0.5] * len(args.without)
    signs = [1] * len(wanted) + [-1] * len(args.without)
    if len(weights) != len(parts):
        raise ValueError(f"--weights expects one number per part of the query, {len(parts)}, found {len(weights)}.")
    return ComposedQuery(parts, [sign * weight for sign, weight in zip(signs, weights, strict=True)])


def _min_score(args: argparse.Namespace) -> Any:
    if args.min_score is None:
        return None
    if args.min_score == "fitted":
        from modeling_tgdt.retriever.threshold import ScoreThreshold

        return ScoreThreshold.load(args.gallery)
    try:
        return float(args.min_score)
    except ValueError:
        raise ValueError(f"--min-score expects a number or `fitted`, found {args.min_score!r}.") from None


def print_table(hits: list[Any]) -> None:
    """Print ranked hits in columns."""
    from modeling_tgdt.retriever.shown import printable

    names = [printable(hit.id) for hit in hits]
    width = max([len(name) for name in names] + [2])
    print(f"rank  {'id':<{width}}  {'score':>8}  {'global':>8}  {'local':>8}")
    for rank, (name, hit) in enumerate(zip(names, hits, strict=True), start=1):
        local = "-" if math.isnan(hit.local_score) else f"{hit.local_score:.4f}"
        shown = f"{rank:>4}  {name:<{width}}  {hit.score:>8.4f}  {hit.global_score:>8.4f}  {local:>8}"
        print(shown + (f"  {_json(hit.metadata)}" if hit.metadata else ""))
        for other in hit.similar:
            print(f"      = {printable(other)}")


def _json(value: dict[str, Any]) -> str:
    from modeling_tgdt.gallery.metadata import json_value
    from modeling_tgdt.retriever.shown import printable

    return printable(json.dumps(json_value(value), ensure_ascii=False, default=str))


def _draw_sheet(hits: list[Any], folder: Path, path: str) -> None:
    from PIL import Image, ImageOps

    from modeling_tgdt.drawing.overlay import contact_sheet
    from modeling_tgdt.image_loading_tgdt import read_picture, rgb_picture
    from modeling_tgdt.retriever.picture_sources import picture_inside
    from modeling_tgdt.retriever.shown import printable

    if not hits:
        raise ValueError("Expected results to draw, found none.")
    panels = []
    for hit in hits:
        try:
            picture = rgb_picture(read_picture(picture_inside(folder, hit.id)))
        except ValueError:  # moved or damaged since it was indexed
            picture = Image.new("RGB", (240, 240), "lightgrey")
        panels.append((ImageOps.pad(picture, (240, 240), color="white"), f"{hit.score:.3f}  {printable(hit.id)}"))
    contact_sheet(panels, min(len(panels), 5)).save(path)
