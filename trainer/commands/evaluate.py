# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt evaluate`: measure retrieval on captioned photos."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

MODES = ("global", "local", "exhaustive", "two_stage")
REDUCTIONS = ("mean", "sum")

_DEFINITIONS = """\
R@K: share of queries (percent) with a match among the first K; any caption of the photo counts, a match outside the
shortlist is a miss, ties count against the system. stage one: share of queries with a match on the shortlist.
_hubness: hubs lowered by the model's reference queries, as its galleries do; where that is worse than the row without,
they do not suit these photos. ms/query: median time of scoring one query alone, encoding excluded.
See docs/evaluation.md."""


_EXAMPLES = """\
examples:
  tgdt evaluate --model runs/flickr8k --dataset FLICKR8K --split validation --output metrics.json
  tgdt evaluate --model runs/flickr8k --dataset FLICKR8K --split validation --reduction mean sum --sweep 10 50 100 200
  tgdt evaluate --model runs/coco --dataset dataset_coco.json --split test --features bottom_up --protocol coco_1k

`accelerate launch -m trainer.cli evaluate ...` shares encoding and scoring over processes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="TGDT model with its processor")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", required=True, metavar="SOURCE", help="captioned photos, as for tgdt train")
    data.add_argument("--split", metavar="NAME", help="split to measure; not needed when there is only one")
    data.add_argument("--features", metavar="PATH", help="region features that replace the pictures")
    data.add_argument("--image-root", metavar="DIR", help="folder that picture file names are relative to")
    data.add_argument("--on-error", default="raise", choices=("raise", "skip", "placeholder"), help="bad pictures")
    data.add_argument("--batch-size", type=int, default=64, help="photos or captions per pass (default: 64)")
    data.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode pictures (default: 0)"
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--protocol",
        default="standard",
        choices=("standard", "coco_1k", "coco_5k", "f30k"),
        help="standard, coco_5k, f30k: rank the whole split; coco_1k: mean of five fifths (default: standard)",
    )
    what.add_argument(
        "--modes",
        nargs="+",
        default=list(MODES),
        choices=MODES,
        help="global: cosine of global embeddings; local: token similarity of all pairs; exhaustive: mixed score of "
        "all pairs; two_stage: mixed score of a shortlist by global score (default: all)",
    )
    what.add_argument("--candidates", type=int, metavar="K", help="shortlist (default: 100 photos, 50 captions)")
    what.add_argument(
        "--reduction",
        nargs="+",
        choices=REDUCTIONS,
        help="average or sum the words of the token similarity; both give a row each (default: as the model was made)",
    )
    what.add_argument(
        "--local-weight", type=float, metavar="W", help="weight of token similarity in the mixed score (default: "
        "the model's)",
    )  # fmt: skip
    what.add_argument("--sweep", nargs="+", type=int, metavar="K", help="also compare shortlists of these sizes")
    parser.add_argument(
        "--output",
        metavar="NAME.json",
        help="also write the metrics as JSON; a sweep goes to NAME.sweep.json and NAME.sweep.png",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table with the definitions of its columns."""
    from accelerate import PartialState

    from hub_cards.tables import results_table
    from modeling_tgdt.retriever.hubness import HubnessOptions
    from modeling_tgdt.retriever.loading import load_pretrained
    from trainer.data.skip_report import SkipReport
    from trainer.datasets import load_captions
    from trainer.report import write_json
    from trainer.scoring.encoding import EncodeOptions, encode_dataset
    from trainer.scoring.positions import ScoreConfig

    state = PartialState()  # under `accelerate launch` the processes share encoding and scoring
    model, processor = load_pretrained(args.model)
    model = model.eval().to(state.device)
    report = SkipReport()
    policy: dict[str, Any] = {"on_error": args.on_error, "report": report}
    photos = load_captions(args.dataset, args.split, features=args.features, image_root=args.image_root, **policy)
    options = EncodeOptions(batch_size=args.batch_size, num_workers=args.workers, progress=not args.quiet, **policy)
    embeddings = encode_dataset(model, processor, photos, options).to(model.device)
    hubness = HubnessOptions.from_pretrained(args.model)
    score = ScoreConfig.of_model(model.config)
    if args.local_weight is not None:
        score = replace(score, local_weight=args.local_weight)
    results = _results(embeddings, score, hubness, args)
    sweep = _sweep(embeddings, replace(score, reduction=(args.reduction or [score.reduction])[0]), hubness, args)
    if not state.is_main_process:
        return 0
    print(results_table(results))
    counts = f"{len(embeddings.image_embeds)} photos, {len(embeddings.text_embeds)} captions"
    print(f"\nProtocol {args.protocol}, {counts}; {report.summary()}.\n{_DEFINITIONS}")
    if args.output:
        write_json(Path(args.output), results)
    if sweep:
        _report_sweep(sweep, args.output)
    return 0


def _results(embeddings: Any, score: Any, hubness: Any, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure every mode, those that read tokens once per reduction asked for."""
    from trainer.evaluation import retrieval_metrics

    def measure(modes: list[str], config: Any) -> dict[str, dict[str, float]]:
        chosen: Any = modes
        return retrieval_metrics(
            embeddings,
            score=config,
            protocol=args.protocol,
            modes=chosen,
            candidates=args.candidates,
            hubness=hubness,
            timed_queries=16,
            progress=not args.quiet,
        )

    reductions = list(dict.fromkeys(args.reduction or [score.reduction]))
    results: dict[str, dict[str, float]] = {}
    for mode in args.modes:
        for reduction in reductions[:1] if mode == "global" else reductions:
            suffix = "" if mode == "global" or len(reductions) == 1 else f"_{reduction}"
            rows = measure([mode], replace(score, reduction=reduction))
            results |= {row + suffix: metrics for row, metrics in rows.items()}
    return results


def _sweep(embeddings: Any, score: Any, hubness: Any, args: argparse.Namespace) -> list[dict[str, float]]:
    """Compare shortlists as a gallery of the model makes them: with its hubness correction where it has one."""
    from trainer.scoring.hubness import corrected_embeddings
    from trainer.scoring.shortlist_sweep import shortlist_sweep

    embeddings = embeddings if hubness is None else corrected_embeddings(embeddings, hubness)
    return shortlist_sweep(embeddings, args.sweep, score=score, progress=not args.quiet) if args.sweep else []


def _report_sweep(rows: list[dict[str, float]], output: str | None) -> None:
    from hub_cards.tables import sweep_table
    from trainer.report import write_json
    from trainer.scoring.shortlist_sweep import plot_sweep

    print(f"\nShortlist size against recall and time:\n{sweep_table(rows)}")
    if output:
        base = Path(output).name.removesuffix(".json")  # with_suffix would make seed0 and seed1 of a name one
        write_json(Path(output).with_name(f"{base}.sweep.json"), rows)
        plot_sweep(rows, Path(output).with_name(f"{base}.sweep.png"))
