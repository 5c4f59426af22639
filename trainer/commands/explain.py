# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt explain`: which word matched which region, as a table and a picture."""

import argparse
from pathlib import Path

from trainer.commands.common import add_device_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("image", metavar="IMAGE", help="picture")
    parser.add_argument("words", metavar="WORDS", help="text")
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="model on the Hub or in a directory")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    add_device_argument(parser)
    parser.add_argument("--out", metavar="FILE", help="picture to write, one heat map per word")
    parser.add_argument(
        "--merge", choices=("mean", "max"), default="mean", help="how pieces of a word count (default: %(default)s)"
    )
    parser.add_argument("--panel-width", type=int, default=320, help="pixels of one heat map (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print each word's best region, and draw."""
    import numpy as np

    from modeling_tgdt.retrieval_tgdt import TGDTRetriever

    if args.panel_width < 32:
        raise ValueError(f"--panel-width must be at least 32 pixels, found {args.panel_width}.")
    retriever = TGDTRetriever.from_pretrained(args.model, revision=args.revision, device=args.device)
    alignment = retriever.explain(Path(args.image), args.words, merge=args.merge)
    boxes = np.zeros((0, 4)) if alignment.boxes is None else alignment.boxes
    width = max(map(len, alignment.words))
    print(f"{'word':<{max(width, 4)}}  {'cosine':>7}  best region (x1 y1 x2 y2 as shares of the picture)")
    for word, region, score in zip(alignment.words, alignment.best_region, alignment.best_score, strict=True):
        box = " ".join(f"{side:.3f}" for side in boxes[region])
        print(f"{word:<{max(width, 4)}}  {score:>7.4f}  {region} ({box})")
    if args.out is not None:
        alignment.save(args.out, panel_width=args.panel_width)
        print(f"wrote {args.out}")
    return 0
