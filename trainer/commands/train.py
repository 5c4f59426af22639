# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt train`: train or fine-tune by a recipe."""

import argparse
import shlex
import sys

from trainer.recipe import load_recipe, recipe_names

_EXAMPLES = """\
examples:
  tgdt train --dataset PHOTOS --output my-model  # your own folder, by the recipe finetune
  tgdt train --dataset PHOTOS --model runs/flickr8k --output my-model  # from a trained model
  tgdt train --recipe flickr8k --dataset FLICKR8K --output runs/flickr8k
  tgdt train --recipe f30k --dataset dataset_flickr30k.json --features bottom_up --output runs/f30k --resume
  tgdt train --recipe my.yaml --output runs/global --set model.local_loss_weight=0 training.on_error=skip

The output directory receives model, processor, metrics.json, run.json (command, seed, versions, history), curves.png
and a model card; checkpoints/skipped.json lists pictures that could not be read. Recipes and their keys:
docs/training.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    names = ", ".join(recipe_names())
    parser.add_argument(
        "--recipe", default="finetune", metavar="NAME|FILE", help=f"one of {names}; or a YAML file (default: finetune)"
    )
    parser.add_argument(
        "--dataset",
        metavar="SOURCE",
        help="Hub id; Parquet, JSONL or CSV file or a folder of them; folder of pictures with a captions file; "
        "Karpathy or COCO JSON. Default: that of the recipe. Without splits a tenth of the photos is held out",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where model, metrics and curves are written")
    parser.add_argument("--model", metavar="ID|DIR", help="TGDT model to fine-tune instead of a new one")
    parser.add_argument("--vision-model", metavar="ID|DIR", help="replaces the recipe's vision backbone")
    parser.add_argument("--text-model", metavar="ID|DIR", help="replaces the recipe's text backbone")
    parser.add_argument("--features", metavar="PATH", help="region features that replace the pictures")
    parser.add_argument("--image-root", metavar="DIR", help="folder that picture file names are relative to")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and dropout (default: 0)")
    parser.add_argument(
        "--on-error", choices=("raise", "skip", "placeholder"), help="bad pictures (default: that of the recipe)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change the recipe, such as training.num_train_epochs=3 model.projection_dim=128",
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, save, and print the table."""
    from hub_cards.privacy import mask_tokens
    from hub_cards.tables import results_table
    from trainer.run import run_recipe

    if args.model and (args.vision_model or args.text_model):
        raise ValueError(
            f"--model {args.model} has its own backbones: expected no --vision-model or --text-model beside it. "
            "Leave them out, or leave --model out to build a new model."
        )
    policy = [f"training.on_error={args.on_error}"] if args.on_error else []
    recipe = load_recipe(args.recipe, [*args.overrides, *policy])
    if args.vision_model:
        recipe.vision_model = args.vision_model
    if args.text_model:
        recipe.text_model = args.text_model
    finished = run_recipe(
        recipe,
        args.output,
        dataset=args.dataset,
        features=args.features,
        image_root=args.image_root,
        model=args.model,
        seed=args.seed,
        resume=args.resume,
        command=mask_tokens(shlex.join(["tgdt", *sys.argv[1:]])),
    )
    print(f"Evaluated on: {finished.evaluated}\n\n{results_table(finished.results)}")
    measured = [entry for entry in finished.history if "start_rsum" in entry]
    if measured:
        start, end = measured[0]["start_rsum"], measured[-1]["end_rsum"]
        print(f"\nWhile training: rsum before the first step {start:.1f}, of the weights that were kept {end:.1f}")
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in finished.seconds.items())
    print(f"\nTime: {parts}\nModel, processor, metrics.json, run.json, curves.png: {finished.output_dir}")
    return 0
