# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt demo`: the main job from end to end, in minutes, on pictures made on the spot."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--output", default="demo_output", metavar="DIR", help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--serve", action="store_true", help="open the demo page on localhost (needs the demo extra)")
    parser.add_argument("--port", type=int, default=7860, help="port of the demo page (default: 7860)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="as in tgdt train")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, search, and say where the picture is."""
    from hub_cards.tables import grounding_table, look_alike_table, results_table
    from trainer.demo import run_demo
    from trainer.scenes.weights import MODEL, made_by

    if args.serve and Path(args.output, "index").is_dir():
        return _serve(args.output, args.port)
    print(f"Trains on from the weights {MODEL} that come with the package, made by\n  {made_by(MODEL)}")
    demo = run_demo(args.output, seed=args.seed, overrides=tuple(args.overrides))
    print(f"\n{results_table(demo.run.results)}\n\n{look_alike_table(demo.look_alikes)}\n")
    print(f"{grounding_table(demo.grounding)}\n")
    for search in demo.searches:
        found = f"found at rank {search.rank}" if search.rank else "not among the first five"
        print(f"  {search.query!r}: {found}; look-alike: {search.change} changed")
    seconds = sum(demo.run.seconds.values())
    print(f"\n{seconds:.0f} s. Picture: {demo.picture}\nModel, processor, gallery, metrics: {demo.run.output_dir}")
    print(f'Try: tgdt search {demo.run.output_dir} "a small red star above a blue circle"')
    return _serve(args.output, args.port) if args.serve else 0


def _serve(output: str, port: int) -> int:
    """Open the demo page over the gallery of a finished demo."""
    from modeling_tgdt import TGDTRetriever
    from trainer.recipe import load_recipe
    from trainer.run import load_split
    from trainer.serving.page import open_page

    recipe = load_recipe("scenes")
    scenes = load_split(recipe, recipe.eval_split, None, None, None)
    pictures = dict(zip(scenes["image_id"], scenes["image"], strict=True))
    examples = [scenes[position]["captions"][0] for position in (0, 10, 20)]
    open_page(TGDTRetriever.from_pretrained(output), pictures, examples, server_port=port)
    return 0
