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
  tgdt evaluate --model runs/scenes --dataset scenes --grounding
  tgdt evaluate --model runs/f30k --dataset FLICKR30K_ENTITIES --image-root flickr30k-images --split test --grounding

`accelerate launch -m trainer.cli evaluate ...` shares encoding and scoring over processes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="TGDT model with its processor")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        required=True,
        metavar="SOURCE",
        help="captioned photos, as for tgdt train, or a folder of Flickr30k Entities; those with a column group_id "
        "get a table of look-alikes",
    )
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
    what.add_argument(
        "--baseline",
        metavar="ID|DIR",
        help="another model on the same photos, such as the one that fine-tuning began with: what was forgotten",
    )
    what.add_argument(
        "--grounding", action="store_true", help="also measure whether words point at what they name, where the data "
        "say where that is: drawn scenes, Flickr30k Entities"
    )  # fmt: skip
    what.add_argument("--sweep", nargs="+", type=int, metavar="K", help="also compare shortlists of these sizes")
    parser.add_argument(
        "--output",
        metavar="NAME.json",
        help="also write the metrics as JSON; a sweep goes to NAME.sweep.json and NAME.sweep.png",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table with the definitions of its columns."""
    from hub_cards.tables import results_table
    from trainer.data.skip_report import SkipReport
    from trainer.report import write_json
    from trainer.scoring.encoding import EncodeOptions
    from trainer.scoring.sharding import launch_state

    state = launch_state()  # under `accelerate launch` the processes share encoding and scoring
    report = SkipReport()
    policy: dict[str, Any] = {"on_error": args.on_error, "report": report}
    photos = _load(args, policy)
    options = EncodeOptions(batch_size=args.batch_size, num_workers=args.workers, progress=not args.quiet, **policy)
    model, processor, embeddings, score, hubness = _encoded(args.model, photos, options, state.device, args)
    results = _results(embeddings, score, hubness, args)
    if args.baseline is not None:
        _, _, *known = _encoded(args.baseline, photos, options, state.device, args)
        results |= {f"baseline_{mode}": row for mode, row in _results(known[0], known[1], known[2], args).items()}
    sweep = _sweep(embeddings, replace(score, reduction=(args.reduction or [score.reduction])[0]), hubness, args)
    if not state.is_main_process:
        return 0
    print(results_table(results))
    counts = f"{len(embeddings.image_embeds)} photos, {len(embeddings.text_embeds)} captions"
    print(f"\nProtocol {args.protocol}, {counts}; {report.summary()}.\n{_DEFINITIONS}")
    if args.baseline is not None:
        print(f"\n{_changes(results)}")
    details = _details(model, processor, photos, embeddings, score, args.grounding)
    if args.output:
        write_json(Path(args.output), {**results, **details})
    if sweep:
        _report_sweep(sweep, args.output)
    return 0


def _load(args: argparse.Namespace, policy: dict[str, Any]) -> Any:
    """Load captioned photos, with the boxes of their things where the source has them."""
    from trainer.data.flickr30k_entities import is_flickr30k_entities, load_flickr30k_entities
    from trainer.datasets import load_captions
    from trainer.scenes.splits import DRAWN, draw_split

    if args.dataset in DRAWN:
        return draw_split(args.dataset, args.split or "validation")
    if is_flickr30k_entities(args.dataset):
        return load_flickr30k_entities(args.dataset, args.image_root or args.dataset, args.split)
    return load_captions(args.dataset, args.split, features=args.features, image_root=args.image_root, **policy)


def _details(
    model: Any, processor: Any, photos: Any, embeddings: Any, score: Any, grounding: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure and print what the data have annotations for: look-alikes told apart, and words that point right."""
    from hub_cards.tables import grounding_table, look_alike_table
    from trainer.scoring.grounding import evaluate_grounding
    from trainer.scoring.look_alikes import look_alike_pairs, score_pairs

    details: dict[str, dict[str, dict[str, float]]] = {}
    if "group_id" in photos.column_names and (pairs := look_alike_pairs(photos)):
        details["look_alikes"] = score_pairs(embeddings, pairs, score)
        print(f"\n{look_alike_table(details['look_alikes'])}")
    if grounding:
        details["grounding"] = evaluate_grounding(model, processor, photos)
        print(f"\n{grounding_table(details['grounding'])}")
    return details


def _encoded(name: str, photos: Any, options: Any, device: Any, args: argparse.Namespace) -> tuple[Any, ...]:
    """Return a model, its processor, the embeddings of the photos, and how the model scores and corrects them."""
    from modeling_tgdt.retriever.hubness import HubnessOptions
    from modeling_tgdt.retriever.loading import load_pretrained
    from modeling_tgdt.similarity_tgdt import ScoreConfig
    from trainer.scoring.encoding import encode_dataset

    model, processor = load_pretrained(name)
    model = model.eval().to(device)
    embeddings = encode_dataset(model, processor, photos, options).to(model.device)
    score = ScoreConfig.of_model(model.config)
    if args.local_weight is not None:
        score = replace(score, local_weight=args.local_weight)
    return model, processor, embeddings, score, HubnessOptions.from_pretrained(name)


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


def _changes(results: dict[str, dict[str, float]]) -> str:
    """Tell in one line how far rsum is from the baseline's, per mode."""
    pairs = [(mode, results[mode]["rsum"], results.get(f"baseline_{mode}", {}).get("rsum")) for mode in results]
    changes = [f"{mode} {rsum - baseline:+.1f}" for mode, rsum, baseline in pairs if baseline is not None]
    return f"rsum against the baseline: {', '.join(changes)}"


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
