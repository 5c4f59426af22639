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
    parser.add_argument("--image", metavar="FILE", help="search with a picture instead of words")
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
    if bool(args.words) == (args.image is not None):
        raise ValueError("expected words or --image FILE, one of the two.")
    retriever = load_retriever(args)
    hits = retriever.search(
        " ".join(args.words) if args.image is None else Path(args.image),
        top_k=args.top_k,
        candidates=args.candidates,
        mode=args.mode,
        where=parse_where(args.where),
        global_weight=args.global_weight,
        local_weight=args.local_weight,
        hubness=not args.no_hubness,
    )
    if args.json:
        for rank, hit in enumerate(hits, start=1):
            row = {key: value for key, value in asdict(hit).items() if key != "matches"}
            print(_json({"rank": rank, **row}))
    else:
        print_table(hits)
    if args.sheet is not None:
        _draw_sheet(hits, pictures_folder(args), args.sheet)
    return 0


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


def _json(value: dict[str, Any]) -> str:
    from modeling_tgdt.gallery.metadata import json_value
    from modeling_tgdt.retriever.shown import printable

    return printable(json.dumps(json_value(value), ensure_ascii=False, default=str))


def _draw_sheet(hits: list[Any], folder: Path, path: str) -> None:
    from PIL import Image, ImageOps

    from modeling_tgdt.image_loading_tgdt import read_picture, rgb_picture
    from modeling_tgdt.retriever.overlay import contact_sheet
    from modeling_tgdt.retriever.picture_sources import picture_inside
    from modeling_tgdt.retriever.shown import printable

    if not hits:
        raise ValueError("there are no results to draw.")
    panels = []
    for hit in hits:
        try:
            picture = rgb_picture(read_picture(picture_inside(folder, hit.id)))
        except ValueError:  # moved or damaged since it was indexed
            picture = Image.new("RGB", (240, 240), "lightgrey")
        panels.append((ImageOps.pad(picture, (240, 240), color="white"), f"{hit.score:.3f}  {printable(hit.id)}"))
    contact_sheet(panels, min(len(panels), 5)).save(path)
