"""What each choice of the recipe `scenes` is worth: one row per model, one change each, as a Markdown table.

    python -m benchmarks.scenes --output runs/scenes [--rows recipe warm flat] [--steps 700] [--seed 0] [--out FILE.md]

Each row is `tgdt train --recipe scenes` with the changes in ROWS and fewer steps. Finished rows are not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trainer.recipe import load_recipe
from trainer.report import write_json
from trainer.run import load_split, run_recipe
from trainer.scoring.grounding import evaluate_grounding
from trainer.scoring.look_alikes import look_alike_accuracy

from .report import command, report

ROWS = {
    "recipe": ("the recipe", []),
    "warm": ("temperatures 0.05", ["model.temperature=0.05", "model.local_temperature=0.05"]),
    "warm_local": ("temperature of the tokens 0.05", ["model.local_temperature=0.05"]),
    "flat": ("boxes start at a spread of 0.02", ["model.box_initializer_range=0.02"]),
    "no_boxes": ("no boxes", ["model.box_encoding=none"]),
    "apart": ("look-alikes in other batches", ["training.look_alikes_per_batch=false"]),
    "local_layer": (
        "one local layer, residual",
        ["model.num_local_layers=1", "model.encoder_layer_type=residual"],
    ),
    "post_norm": (
        "one local layer, the paper's",
        ["model.num_local_layers=1", "model.encoder_layer_type=post_norm"],
    ),
    "no_intra": ("no intra term", ["model.intra_loss_weight=0"]),
    "hinge": ("triplets instead of InfoNCE", ["model.objective=hinge"]),
}
HEADER = ["changed", "global", "tokens", "two stages", "colour / shape / size words right",
          "tokens tell colours / relations / sizes"]  # fmt: skip


def run_row(name: str, args: argparse.Namespace) -> None:
    """Train and measure one row unless its results are there."""
    done = args.output / f"{name}.json"
    if done.is_file():
        return
    recipe = load_recipe("scenes", [f"training.max_steps={args.steps}", *ROWS[name][1]])
    run = run_recipe(recipe, args.output / name, seed=args.seed, command=command())
    scenes = load_split(recipe, recipe.eval_split, None, None, None)
    found = {
        "rsum": {mode: metrics["rsum"] for mode, metrics in run.results.items()},
        "grounding": evaluate_grounding(run.model, run.processor, scenes),
        "look_alikes": look_alike_accuracy(run.model, run.processor, scenes),
    }
    write_json(done, found)


def table(output: Path) -> list[list[str]]:
    """Return the rows that are finished, the header first."""
    rows = [HEADER]
    for name, (title, _) in ROWS.items():
        path = output / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            words = [f"{found['grounding'][kind]['nearest']:.0f}" for kind in ("colour", "shape", "size")]
            told = [f"{found['look_alikes'][kind]['local']:.0f}" for kind in ("colours", "relation", "sizes")]
            scores = [f"{found['rsum'][mode]:.1f}" for mode in ("global", "local", "two_stage")]
            rows.append([title, *scores, " / ".join(words), " / ".join(told)])
    return rows


def main() -> None:
    """Run the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.rows:
        run_row(name, args)
    report(table(args.output), "Scenes, one change at a time", args.out)


if __name__ == "__main__":
    main()
