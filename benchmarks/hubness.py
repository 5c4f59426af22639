"""What reference queries are worth: bank size, neighbours and strength against rsum, as a Markdown table.

    python -m benchmarks.hubness --model runs/flickr8k --dataset FLICKR8K_PARQUET_DIR

The bank is drawn from the training split and measured on another one; the model's own bank plays no part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from typing import Any

from modeling_tgdt import TGDTModel, TGDTProcessor
from modeling_tgdt.retriever.hubness import HubnessOptions
from modeling_tgdt.similarity_tgdt import ScoreConfig
from trainer import load_captions
from trainer.data.splits import hashed_order
from trainer.evaluation import retrieval_metrics
from trainer.scoring.encoding import EncodeOptions, encode_dataset

SHORTLISTS = (10, 20, 50, 100)


def banks(model: Any, processor: Any, photos: Any, args: argparse.Namespace) -> Iterator[tuple[int, HubnessOptions]]:
    """Yield how many photos a bank holds, and the bank, for every choice; the photos are embedded once."""
    ids = photos.with_format(None)["image_id"][:]
    place = {name: row for row, name in enumerate(ids)}
    most = photos.select([place[name] for name in hashed_order(ids)[: max(args.photos)]])
    found = encode_dataset(model, processor, most, EncodeOptions(tokens=False))
    for count, neighbors, strength in product(args.photos, args.neighbors, args.strength):
        texts = found.text_embeds[found.text_to_image < count]
        yield count, HubnessOptions(found.image_embeds[:count], texts, neighbors, strength)


def main() -> None:
    """Print the table of banks, and that of shortlists with the last of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--photos", nargs="+", type=int, default=[250, 500, 1000, 2000])
    parser.add_argument("--neighbors", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--strength", nargs="+", type=float, default=[0.5, 0.75, 1.0])
    args = parser.parse_args()
    model, processor = TGDTModel.from_pretrained(args.model).eval(), TGDTProcessor.from_pretrained(args.model)
    measured = encode_dataset(model, processor, load_captions(args.dataset, args.split))
    score = ScoreConfig.of_model(model.config)
    print("| photos | neighbors | strength | global | two stages |\n|---:|---:|---:|---:|---:|", flush=True)
    plain = retrieval_metrics(measured, score=score, modes=["global", "two_stage"])
    print(f"| without | - | - | {plain['global']['rsum']:.1f} | {plain['two_stage']['rsum']:.1f} |", flush=True)
    for count, bank in banks(model, processor, load_captions(args.dataset, args.train_split), args):
        rows = retrieval_metrics(measured, score=score, modes=["global", "two_stage"], hubness=bank)
        rsums = f"{rows['global_hubness']['rsum']:.1f} | {rows['two_stage_hubness']['rsum']:.1f}"
        print(f"| {count} | {bank.neighbors} | {bank.strength:g} | {rsums} |", flush=True)
    print("\n| shortlist | two stages | corrected |\n|---:|---:|---:|")
    for size in SHORTLISTS:
        rows = retrieval_metrics(measured, score=score, modes=["two_stage"], candidates=size, hubness=bank)
        print(f"| {size} | {rows['two_stage']['rsum']:.1f} | {rows['two_stage_hubness']['rsum']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
