# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What shorter global embeddings cost in recall, trained for it (`matryoshka_dims`) and not, on drawn scenes.

    python -m benchmarks.matryoshka --output runs/matryoshka [--steps 150] [--seeds 0 1] [--out benchmarks/RESULTS.md]

Trains the model of the package on, with and without the option, once per seed; runs that are there already are read.
Both stages use the cut embeddings, as a gallery with `global_dim` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from modeling_tgdt import TGDTModel, TGDTProcessor
from modeling_tgdt.similarity_tgdt import ScoreConfig, truncate
from trainer.evaluation import retrieval_metrics
from trainer.recipe import load_recipe
from trainer.run import load_split, run_recipe
from trainer.scoring.encoding import EncodeOptions, encode_dataset

from .report import report

MODES = ("global", "two_stage")
SHIPPED = "tgdt:scenes-model"


def model_of(folder: Path, matryoshka: Sequence[int] | None, seed: int, steps: int) -> TGDTModel:
    """Return the model of a run, trained first where it is not there."""
    if not (folder / "config.json").exists():
        chosen = [f"training.max_steps={steps}", "training.learning_rate=3e-4"]
        chosen += [f"model.matryoshka_dims={list(matryoshka)}"] if matryoshka else []
        run_recipe(load_recipe("scenes", chosen), folder, seed=seed, model=SHIPPED)
    return TGDTModel.from_pretrained(folder).eval()


def rsums(folder: Path, model: TGDTModel, photos: Any, dims: Sequence[int]) -> dict[tuple[int, str], float]:
    """Return the rsum of every length and mode."""
    found = encode_dataset(model, TGDTProcessor.from_pretrained(folder), photos, EncodeOptions(progress=False))
    rows = {}
    for dim in dims:
        images, texts = truncate(found.image_embeds, dim), truncate(found.text_embeds, dim)
        cut = replace(found, image_embeds=images, text_embeds=texts)
        measured = retrieval_metrics(cut, score=ScoreConfig.of_model(model.config), modes=MODES)
        rows |= {(dim, mode): measured[mode]["rsum"] for mode in MODES}
    return rows


def main() -> None:
    """Train what is missing and print the table: means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trained", type=int, nargs="+", default=[32, 64], help="matryoshka_dims")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 64, 32], help="lengths to measure")
    parser.add_argument("--out", help="Markdown file for the table")
    args = parser.parse_args()
    recipe = load_recipe("scenes")
    photos = load_split(recipe, recipe.eval_split, None, None, None)
    found: dict[str, list[dict[tuple[int, str], float]]] = {"plain": [], "matryoshka": []}
    for seed in args.seeds:
        for name, runs in found.items():
            folder = args.output / f"{name}-{seed}"
            model = model_of(folder, args.trained if name == "matryoshka" else None, seed, args.steps)
            runs.append(rsums(folder, model, photos, args.dims))
    rows = [["global numbers", *(f"{mode}, {name}" for mode in MODES for name in found)]]
    for dim in args.dims:
        means = [mean(run[dim, mode] for run in runs) for mode in MODES for runs in found.values()]
        rows.append([str(dim), *(f"{value:.1f}" for value in means)])
    report(rows, "Shorter global embeddings", args.out, f"rsum, mean of {len(args.seeds)} seed(s). ")


if __name__ == "__main__":
    main()
