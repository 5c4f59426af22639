"""A dual encoder that was trained elsewhere: taken up, fine-tuned, and mixed with its start.

    python -m benchmarks.dual_encoder --dataset FLICKR8K --vision-model RESNET_DIR --text-model MINILM_DIR \
        --output runs/dual [--photos 2000] [--held-out 500] [--steps 160] [--out benchmarks/RESULTS.md]

Trains transformers' `VisionTextDualEncoderModel` with its own contrastive loss, the vision tower frozen, takes it up
with `from_dual_encoder_pretrained`, fine-tunes that and, beside it, the same towers under random projections, and
measures mixes of start and end. rsum on held-out photos of the training split, which also choose the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    ResNetModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    set_seed,
)
from transformers.models.vision_text_dual_encoder.modeling_vision_text_dual_encoder import image_text_contrastive_loss

from hub_cards.metric.image_text_recall.image_text_recall import relevant_positions, retrieval_summary
from modeling_tgdt import TGDTModel, TGDTProcessor
from trainer import evaluate_retrieval, load_captions
from trainer.recipe import load_recipe
from trainer.run import run_recipe
from trainer.scoring.embeddings import RetrievalEmbeddings
from trainer.scoring.encoding import EncodeOptions
from trainer.scoring.positions import relevant_rows
from trainer.training.interpolation import interpolate_models
from trainer.training.token_cache import cache_tokens

from .report import report

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DIM, BATCH = 256, 64
QUIET = EncodeOptions(progress=False, batch_size=64)


class FlatResNet(ResNetModel):
    """A ResNet whose pooled output is (B, C), as VisionTextDualEncoderModel expects of a vision tower."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of the tower, the pooled one without its two axes of one cell."""
        outputs = super().forward(*args, **kwargs)
        outputs.pooler_output = outputs.pooler_output.flatten(1)
        return outputs


def make_source(args: argparse.Namespace) -> VisionTextDualEncoderModel:
    """Put new projections on the two backbones."""
    vision = FlatResNet.from_pretrained(args.vision_model, dtype=torch.float32)
    vision.config.hidden_size = vision.config.hidden_sizes[-1]
    text = AutoModel.from_pretrained(args.text_model, dtype=torch.float32)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config, projection_dim=DIM)
    return VisionTextDualEncoderModel(config=config, vision_model=vision, text_model=text)


def train_source(
    model: VisionTextDualEncoderModel, tokenizer: Any, pooled: torch.Tensor, photos: Any, steps: int
) -> None:
    """Train projections and text tower on pooled images (N, H) and one caption of each, symmetric cross-entropy."""
    towers = {"params": model.text_model.parameters(), "lr": 5e-5}
    heads = [*model.visual_projection.parameters(), *model.text_projection.parameters(), model.logit_scale]
    optimizer = torch.optim.AdamW([towers, {"params": heads, "lr": 1e-3}], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [5e-5, 1e-3], total_steps=steps)
    captions = photos["captions"]
    model.train()
    model.vision_model.eval()
    for _ in range(steps):
        rows = torch.randperm(len(pooled))[:BATCH]
        picked = [captions[row][int(torch.randint(len(captions[row]), ()))] for row in rows.tolist()]
        words = tokenizer(picked, padding=True, return_tensors="pt")
        text = normalize(model.text_projection(model.text_model(**words).pooler_output), dim=-1)
        logits = model.logit_scale.exp() * text @ normalize(model.visual_projection(pooled[rows]), dim=-1).T
        loss = image_text_contrastive_loss(logits)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.text_model.parameters(), *heads], 2.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def source_rsum(model: VisionTextDualEncoderModel, processor: Any, photos: Any) -> float:
    """Measure the source by its own forward pass and its own processor, pictures and captions in small batches."""
    images = []
    for start in range(0, len(photos), 64):
        pixels = processor.image_processor(photos[start : start + 64]["image"], return_tensors="pt")["pixel_values"]
        images.append(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
    captions = [caption for row in photos["captions"] for caption in row]
    owner = torch.tensor([number for number, row in enumerate(photos["captions"]) for _ in row])
    texts = []
    for start in range(0, len(captions), 64):
        words = processor.tokenizer(captions[start : start + 64], padding=True, return_tensors="pt")
        texts.append(model.text_projection(model.text_model(**words).pooler_output))
    embeddings = RetrievalEmbeddings(normalize(torch.cat(images), dim=-1), normalize(torch.cat(texts), dim=-1), owner)
    scores = (embeddings.image_embeds @ embeddings.text_embeds.T).numpy()
    return retrieval_summary({
        "i2t": relevant_positions(scores, relevant_rows(embeddings, "i2t")),
        "t2i": relevant_positions(scores.T, relevant_rows(embeddings, "t2i")),
    })["rsum"]  # fmt: skip


def measure(model: TGDTModel, processor: TGDTProcessor, photos: Any) -> list[str]:
    """Return rsum of both modes."""
    results = evaluate_retrieval(
        model, processor, photos, modes=("global", "two_stage"), options=QUIET, timed_queries=0
    )
    return [f"{results[mode]['rsum']:.1f}" for mode in ("global", "two_stage")]


def tune(args: argparse.Namespace, data: Any, name: str, start: str) -> tuple[dict[str, float], str]:
    """Fine-tune by the recipe `finetune`; return rsum of the first, lowest and last evaluation, and the folder."""
    every = max(1, args.steps // 5)
    changes = [
        f"training.max_steps={args.steps}", f"training.per_device_train_batch_size={BATCH}",
        "training.eval_strategy=steps", f"training.eval_steps={every}",
        "training.save_strategy=steps", f"training.save_steps={every}",
        "training.cache_vision_tokens=false", "reference_photos=0",  # the photos are cached already
    ]  # fmt: skip
    recipe = load_recipe("finetune", [*changes, *args.set])
    output = args.output / "tuned" / name
    run = run_recipe(recipe, output, dataset=data, model=start, seed=args.seed)
    rsums = [entry["eval_rsum"] for entry in run.history if "eval_rsum" in entry]
    return {"first": rsums[0], "lowest": min(rsums), "last": rsums[-1]}, str(output)


def run(args: argparse.Namespace) -> list[list[str]]:
    """Do everything and return the table."""
    set_seed(args.seed)
    photos = load_captions(args.dataset, "train").select(range(args.photos + args.held_out))
    train, held = photos.select(range(args.photos)), photos.select(range(args.photos, len(photos)))
    source, folder, untrained = make_source(args), str(args.output / "source"), str(args.output / "untrained")
    own = VisionTextDualEncoderProcessor(
        AutoImageProcessor.from_pretrained(args.vision_model), AutoTokenizer.from_pretrained(args.text_model)
    )
    for path in (folder, untrained):
        source.save_pretrained(path)
        own.save_pretrained(path)
    start, processor = (
        TGDTModel.from_dual_encoder_pretrained(folder),
        TGDTProcessor.from_dual_encoder_pretrained(folder),
    )
    cached = datasets.DatasetDict(
        train=cache_tokens(start, processor, train, args.output / "tokens"),
        validation=cache_tokens(start, processor, held, args.output / "tokens"),
    )
    pooled = torch.stack([torch.as_tensor(row["region_features"])[0].float() for row in cached["train"]])
    train_source(source, own.tokenizer, pooled, train, args.steps)
    source.save_pretrained(folder)
    start = TGDTModel.from_dual_encoder_pretrained(folder)
    rows = [["model", "global", "two stages", "first evaluation", "lowest", "last"]]
    rows.append(["source, its own forward pass", f"{source_rsum(source, own, held):.1f}", *"----"])
    rows.append(["taken up", *measure(start, processor, held), *"---"])
    for name, path in (("fine-tuned", folder), ("from random projections, trained alike", untrained)):
        steps, output = tune(args, cached, Path(path).name, path)
        after = json.loads((Path(output) / "metrics.json").read_text())
        numbers = [after["global"]["rsum"], after["two_stage"]["rsum"], *steps.values()]
        rows.append([name, *(f"{value:.1f}" for value in numbers)])
    tuned = TGDTModel.from_pretrained(str(args.output / "tuned" / "source"))
    for alpha in ALPHAS:
        mixed = interpolate_models(start, tuned, alpha)
        rows.append([f"{alpha:g} of the tuned weights", *measure(mixed, processor, cached["validation"]), *"---"])
    return rows


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Flickr8k, as for tgdt train")
    parser.add_argument("--vision-model", required=True, help="a ResNet")
    parser.add_argument("--text-model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=2000, help="photos to train on (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=500, help="photos to measure on (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=160, help="of the source and of each tuning (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further changes of the recipe")
    parser.add_argument("--out", help="Markdown file for the table")
    args = parser.parse_args()
    report(run(args), "A dual encoder, taken up and fine-tuned", args.out, "rsum on held-out photos. ")


if __name__ == "__main__":
    main()
