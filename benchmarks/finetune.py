"""What README's fine-tuning block gives on few and on many photos: before, after the warm start, after training.

    python -m benchmarks.finetune --dataset FLICKR8K --vision-model DIR --text-model DIR --output runs/finetune \
        [--sizes 237:60 1000:200] [--seeds 0 1 2 3 4] [--photos 1824] [--out benchmarks/RESULTS.md]

Two-stage rsum. Each size is TRAINED:HELD_OUT photos of the training split, drawn by each seed. The held-out photos
choose the checkpoint, so as many others, which chose nothing, are measured too. `fixed` is the warm start as it was:
ridges of 1 and 0.3, post-norm layers on top. Both backbones are frozen and run once over photos and captions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoTokenizer, set_seed
from transformers.modeling_outputs import BaseModelOutput

from modeling_tgdt import TGDTImageProcessor, TGDTModel, TGDTProcessor
from trainer import CMCTrainer, CMCTrainingArguments, evaluate_retrieval, load_captions, warm_start
from trainer.report import write_json
from trainer.scoring.encoding import EncodeOptions
from trainer.training.projection_init import Ridges
from trainer.training.token_cache import cache_tokens

from .report import report

HEADS = {"projection_dim": 256, "num_local_layers": 1, "num_global_layers": 1, "intermediate_size": 512}
AS_IT_WAS = {"encoder_layer_type": "post_norm", "box_encoding": "concat"}
QUIET = EncodeOptions(progress=False)


class RememberedTower:
    """The forward pass of a frozen text backbone, which runs once for each caption."""

    def __init__(self, seen: dict[tuple[int, ...], torch.Tensor]) -> None:
        self.seen = seen

    def attach(self, model: TGDTModel) -> None:
        """Take the place of the model's text backbone."""
        self.forward, model.text_model.forward = model.text_model.forward, self

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        rows = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        new = [number for number, row in enumerate(rows) if row not in self.seen]
        if new:
            with torch.no_grad():
                states = self.forward(input_ids=input_ids[new], attention_mask=attention_mask[new]).last_hidden_state
            self.seen.update(
                {rows[number]: state[: len(rows[number])] for number, state in zip(new, states, strict=True)}
            )
        states = [self.seen[row] for row in rows]
        return BaseModelOutput(last_hidden_state=torch.nn.utils.rnn.pad_sequence(states, batch_first=True))


class Bench:
    """The photos with cached tokens, and what every run shares."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.captions: dict[tuple[int, ...], torch.Tensor] = {}
        tokenizer = AutoTokenizer.from_pretrained(args.text_model)
        self.processor = TGDTProcessor(TGDTImageProcessor.from_backbone(args.vision_model), tokenizer)
        photos = load_captions(args.dataset, "train")
        photos = photos.select(range(min(args.photos or len(photos), len(photos))))
        self.photos = cache_tokens(self.model(), self.processor, photos, args.output / "tokens", batch_size=32)

    def model(self, **fields: Any) -> TGDTModel:
        """Return a new model as README's block makes it."""
        fields = {"text_global_token": "mean", **HEADS, **fields}
        model = TGDTModel.from_vision_text_pretrained(self.args.vision_model, self.args.text_model, **fields)
        RememberedTower(self.captions).attach(model)
        return model

    def rsum(self, model: TGDTModel, photos: Any) -> float:
        """Return the two-stage rsum."""
        options = {"modes": ("two_stage",), "timed_queries": 0, "options": QUIET}
        return evaluate_retrieval(model, self.processor, photos, **options)["two_stage"]["rsum"]

    def run(self, trained: int, held_out: int, seed: int) -> dict[str, float]:
        """Run README's block once and return what was measured."""
        set_seed(seed)
        order = torch.randperm(len(self.photos), generator=torch.Generator().manual_seed(seed))
        train, held, other = (
            self.photos.select(rows.tolist())
            for rows in order[: trained + 2 * held_out].split([trained, held_out, held_out])
        )
        model = self.model(**AS_IT_WAS)
        warm_start(model, self.processor, train, QUIET, ridges=Ridges(image=1.0, text=0.3))
        found = {"fixed": self.rsum(model, held), "fixed_other": self.rsum(model, other)}
        model = self.model()
        warm_start(model, self.processor, train, QUIET)
        found |= {"start": self.rsum(model, held), "start_other": self.rsum(model, other)}
        with tempfile.TemporaryDirectory(dir=self.args.output) as folder:
            trainer = CMCTrainer(
                model=model,
                args=arguments(folder, seed),
                processing_class=self.processor,
                train_dataset=train,
                eval_dataset=held,
            )
            trainer.train()
        return found | {"end": self.rsum(model, held), "end_other": self.rsum(model, other)}


def arguments(folder: str, seed: int) -> CMCTrainingArguments:
    """Return the arguments of README's block."""
    options: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    options |= {"per_device_train_batch_size": 64, "learning_rate": 1e-4, "freeze": ["vision", "text"]}
    return CMCTrainingArguments(folder, seed=seed, save_total_limit=1, report_to=[], disable_tqdm=True, **options)


def table(output: Path, sizes: list[str]) -> list[list[str]]:
    """Return the rows of all finished runs: means over seeds, and the smallest gain of a seed."""
    names = ("fixed", "start", "end")
    rows = [["trained:held out", "seeds", *names, "least end - start", *(f"{name}, others" for name in names)]]
    for size in sizes:
        runs = [json.loads(path.read_text()) for path in sorted(output.glob(f"{size.replace(':', '-')}-*.json"))]
        if runs:
            means = [f"{mean(run[name + suffix] for run in runs):.1f}" for suffix in ("", "_other") for name in names]
            least = min(run["end"] - run["start"] for run in runs)
            rows.append([size, str(len(runs)), *means[:3], f"{least:+.1f}", *means[3:]])
    return rows


def main() -> None:
    """Do the runs that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="captioned photos with a split 'train', as for tgdt train")
    parser.add_argument("--vision-model", required=True)
    parser.add_argument("--text-model", required=True)
    parser.add_argument("--output", type=Path, required=True, help="cached tokens and finished runs")
    parser.add_argument("--sizes", nargs="+", default=["237:60", "1000:200"], metavar="TRAINED:HELD_OUT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--photos", type=int, help="take the first so many photos only")
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    bench: Bench | None = None
    for size in args.sizes:
        for seed in args.seeds:
            path = args.output / f"{size.replace(':', '-')}-{seed}.json"
            if not path.exists():
                bench = bench or Bench(args)
                write_json(path, bench.run(*map(int, size.split(":")), seed))
                print(size, seed, path.read_text(), flush=True)
    report(table(args.output, args.sizes), "Fine-tuning on few photos", args.out, "Two-stage rsum. ")


if __name__ == "__main__":
    main()
