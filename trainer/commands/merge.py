# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt merge`: a model between a start and what fine-tuning made of it."""

import argparse

_EXAMPLES = """\
examples:
  tgdt merge openai/clip-vit-base-patch32 runs/mine --alpha 0.5 --out runs/between
  tgdt evaluate --model runs/between --dataset PHOTOS --baseline openai/clip-vit-base-patch32"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("start", metavar="A", help="model that fine-tuning began with, on the Hub or in a directory")
    parser.add_argument("tuned", metavar="B", help="what it made of it")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="share of B's weights, from 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="directory of the result")


def run(args: argparse.Namespace) -> int:
    """Interpolate and save, with the processor of B."""
    from modeling_tgdt.retriever.loading import load_pretrained
    from trainer.training.interpolation import interpolate_models

    tuned, processor = load_pretrained(args.tuned)
    start, _ = load_pretrained(args.start)
    merged = interpolate_models(start, tuned, args.alpha)
    merged.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    print(f"{args.alpha:g} of {args.tuned} and {1 - args.alpha:g} of {args.start} are in {args.out}")
    return 0
