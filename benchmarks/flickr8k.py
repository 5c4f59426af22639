"""What each part of the method is worth on real photos: one row per model, as a Markdown table.

    python -m benchmarks.flickr8k --dataset DIR --vision-model DIR --text-model DIR --output runs/flickr8k
    python -m benchmarks.flickr8k ... --rows cmc:0 distill:0     # some rows; the table shows all that are finished

Each row is `tgdt train --recipe flickr8k` with the changes in ROWS. Photos are cached once for all rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from trainer.recipe import load_recipe
from trainer.run import run_recipe

from .report import command

ROWS = {
    "global": ("global only", ["model.local_loss_weight=0"]),
    "local": (
        "local only",
        ["model.global_loss_weight=0", "model.intra_loss_weight=0", "training.train_stage=local"],
    ),
    "joint": ("joint, no intra term", ["model.intra_loss_weight=0"]),
    "cmc": ("joint CMC", []),
    "distill": ("joint CMC + distillation", ["model.distill_loss_weight=0.5"]),
    "cold": ("joint CMC, no warm start", ["warm_start=false"]),
}
DEFAULT_ROWS = ("cmc:0", "distill:0", "global:0", "local:0", "joint:0", "cold:0", "cmc:1", "distill:1", "cmc:2",
                "distill:2")  # fmt: skip
COLUMNS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def train_row(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row unless its results are there."""
    output = args.output / f"{name}-{seed}"
    if (output / "metrics.json").is_file():
        return
    overrides = [*ROWS[name][1], f"training.token_cache_dir={args.output / 'tokens'}", *args.set]
    recipe = load_recipe("flickr8k", overrides)
    recipe.dataset, recipe.vision_model, recipe.text_model = args.dataset, args.vision_model, args.text_model
    run_recipe(recipe, output, seed=seed, command=command())


def table(output: Path) -> str:
    """Return the Markdown table of all finished rows: mean over seeds, and the spread of rsum."""
    lines = [
        "| model | seeds | mode | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rsum | stage one | ms/query |",
        "|---|---:|---|" + "---:|" * 9,
    ]
    for name, (title, _) in ROWS.items():
        runs = [json.loads(path.read_text()) for path in sorted(output.glob(f"{name}-*/metrics.json"))]
        for mode in runs[0] if runs else ():
            lines.append(f"| {title} | {len(runs)} | {mode} | {' | '.join(cells([run[mode] for run in runs]))} |")
    return "\n".join(lines)


def cells(runs: Sequence[dict[str, float]]) -> list[str]:
    """Return the numbers of one row."""
    found = [f"{mean(run[column] for run in runs):.1f}" for column in COLUMNS]
    if len(runs) > 1:
        found[-1] += f" ± {stdev(run['rsum'] for run in runs):.1f}"
    for column, digits in (("stage1_recall", 1), ("query_ms", 1)):
        found.append(f"{mean(run[column] for run in runs):.{digits}f}" if column in runs[0] else "-")
    return found


def main() -> None:
    """Train the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Flickr8k, as for tgdt train")
    parser.add_argument("--vision-model", required=True)
    parser.add_argument("--text-model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=DEFAULT_ROWS, metavar="NAME:SEED", help=", ".join(ROWS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further changes of the recipe")
    args = parser.parse_args()
    for row in args.rows:
        name, _, seed = row.partition(":")
        if name not in ROWS or not seed.isdigit():
            parser.error(f"expected NAME:SEED with a name out of {', '.join(ROWS)}, found {row!r}")
        train_row(name, int(seed), args)
    print(table(args.output))


if __name__ == "__main__":
    main()
