# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt demo`: the main job from end to end, in minutes, on pictures made on the spot."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--output", default="demo_output", metavar="DIR", help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="as in tgdt train")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, search, and say where the picture is."""
    from trainer.demo import run_demo
    from trainer.report import results_table

    demo = run_demo(args.output, seed=args.seed, overrides=tuple(args.overrides))
    print(results_table(demo.run.results))
    for search in demo.searches:
        place = next((rank + 1 for rank, hit in enumerate(search.hits) if hit.id == search.image_id), None)
        found = f"found at rank {place}" if place else "not among the first five"
        print(f"  {search.query!r}: {found}")
    seconds = sum(demo.run.seconds.values())
    print(f"\n{seconds:.0f} s. Picture: {demo.picture}\nModel, processor, gallery, metrics: {demo.run.output_dir}")
    print(f'Try: tgdt search {demo.run.output_dir} "a small red star above a blue circle"')
    return 0
