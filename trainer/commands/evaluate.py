# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt evaluate`: measure retrieval on captioned photos."""

import argparse
from pathlib import Path

MODES = ("global", "local", "exhaustive", "two_stage")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="TGDT model with its processor")
    parser.add_argument("--dataset", required=True, metavar="SOURCE", help="captioned photos, as for tgdt train")
    parser.add_argument("--split", metavar="NAME", help="split to measure; not needed when there is only one")
    parser.add_argument("--features", metavar="PATH", help="region features that replace the pictures")
    parser.add_argument("--image-root", metavar="DIR", help="folder that picture file names are relative to")
    parser.add_argument(
        "--protocol", default="standard", choices=("standard", "coco_1k", "coco_5k", "f30k"), help="what is ranked"
    )
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, help="default: all")
    parser.add_argument("--candidates", type=int, metavar="K", help="shortlist (default: 100 photos, 50 captions)")
    parser.add_argument("--batch-size", type=int, default=64, help="photos or captions per pass (default: 64)")
    parser.add_argument("--on-error", default="raise", choices=("raise", "skip", "placeholder"), help="bad pictures")
    parser.add_argument("--output", metavar="FILE", help="also write the metrics as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table with the definitions of its columns."""
    from modeling_tgdt import TGDTModel, TGDTProcessor
    from trainer.datasets import load_captions
    from trainer.evaluation import evaluate_retrieval
    from trainer.report import results_table, write_json

    model = TGDTModel.from_pretrained(args.model).eval()
    processor = TGDTProcessor.from_pretrained(args.model)
    photos = load_captions(
        args.dataset, args.split, features=args.features, image_root=args.image_root, on_error=args.on_error
    )
    results = evaluate_retrieval(
        model, processor, photos, args.protocol, args.modes, args.candidates, batch_size=args.batch_size
    )
    print(results_table(results))
    print(
        f"\nProtocol {args.protocol}, {len(photos)} photos. R@K: share of queries (percent) with a match among the "
        "first K; any caption\nof the photo counts, a match outside the shortlist is a miss, ties count against the "
        "system. stage one: share of\nqueries with a match on the shortlist. ms/query: median of single queries."
    )
    if args.output:
        write_json(Path(args.output), results)
    return 0
