# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Time and peak memory of a training step, ours against the authors' formulation; and cached tokens against pixels.

    python -m benchmarks.train_step [--rows heads-reference heads all-reference all cached frozen-pixels pixels]
                                    [--out benchmarks/RESULTS.md]

The paper's size, random weights: BERT with 6 layers, region encoder 4 x 2048, D = 1024, 36 regions and the global
slot, captions of 10 to 24 word pieces, batch 30; hinge with hardest negatives on global and token similarity (summed,
times ten), intra-modal consistency, gradient clipping, Adam. `heads` trains the two global encoders on detached
tokens, as the released script does; `all` trains everything. `*-reference` expands both sides to all B x B x R x W
products and differentiates them all, and in `heads-reference` runs the encoders that do not learn with their graph.
Both versions of a pair have the same weights and batch and no dropout, so that their loss agrees.

`cached`, `frozen-pixels` and `pixels`: a ResNet-50 and a text encoder of MiniLM's size with heads of 256 dimensions,
batch 32, 224 pixels; from the backbone's stored tokens, through the frozen backbone, and training it.

Every row has a process of its own; seconds are the best and the median of `--repeat` steps after one that is not
counted, memory is the peak of the whole process, weights and optimizer included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, ResNetConfig

from modeling_tgdt import TGDTConfig, TGDTModel
from modeling_tgdt.objectives_tgdt import both_ways, hinge, intra_modal_consistency
from trainer.training.stages import frozen_modules, training_stage

from .report import report

REGIONS, PAPER_BATCH, PIXEL_BATCH = 36, 30, 32
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
Inputs = dict[str, Tensor]


def paper_model(detach: bool) -> TGDTModel:
    """Build the model of the paper; detached, the tokens are those of the heads, as in the released training."""
    config = TGDTConfig(
        text_config=BertConfig(num_hidden_layers=6, **_NO_DROPOUT),
        region_feature_size=2048,
        projection_dim=1024,
        num_region_layers=4,
        similarity_reduction="sum",
        similarity_scale=10.0,
        local_margin=0.2,
        detach_global_encoder=detach,
        token_source="global" if detach else "local",
        **_NO_DROPOUT,
    )
    return TGDTModel(config)


def words(batch: int, low: int = 12, high: int = 27) -> Inputs:
    """Draw captions of low to high - 1 positions, special tokens included."""
    lengths = torch.randint(low, high, (batch, 1))
    mask = (torch.arange(int(lengths.max())) < lengths).long()
    return {"input_ids": torch.randint(1000, 30000, mask.shape) * mask, "attention_mask": mask}


def paper_inputs() -> Inputs:
    """Draw a batch of regions with boxes, and captions."""
    corners = torch.rand(PAPER_BATCH, REGIONS, 2, 2).sort(dim=2).values
    features = torch.rand(PAPER_BATCH, REGIONS, 2048)
    return {"region_features": features, "region_boxes": corners.flatten(2), **words(PAPER_BATCH)}


def pixel_model() -> TGDTModel:
    """Build a ResNet-50 with a small text encoder and small heads."""
    text = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    heads = {"projection_dim": 256, "num_attention_heads": 8, "intermediate_size": 512, "box_encoding": "sum"}
    layers = {"num_local_layers": 1, "num_global_layers": 1}
    return TGDTModel(
        TGDTConfig(vision_config=ResNetConfig(), text_config=text, objective="infonce", **heads, **layers)
    )


def pixel_inputs(model: TGDTModel, cached: bool) -> Inputs:
    """Draw pictures, or the tokens that the backbone gives for them."""
    pixels = torch.randn(PIXEL_BATCH, 3, 224, 224)
    if not cached:
        return {"pixel_values": pixels, **words(PIXEL_BATCH)}
    with torch.no_grad():
        features, boxes, _ = model.eval().encode_regions(pixels)
    return {"region_features": features.clone(), "region_boxes": boxes.clone(), **words(PIXEL_BATCH)}


def ours(model: TGDTModel, inputs: Inputs) -> Tensor:
    """Forward pass and loss of the package."""
    return model(**inputs, return_loss=True, return_logits=False).loss


def reference(model: TGDTModel, inputs: Inputs) -> Tensor:
    """The same loss from all B x B x R x W products, each of them differentiated."""
    out, config = model(**inputs, return_loss=False, return_logits=False), model.config
    images, texts = out.image_token_embeds, out.text_token_embeds
    size, regions, dim = images.shape
    left = images[:, None].expand(size, size, regions, dim)
    right = texts[None].expand(size, size, texts.shape[1], dim)
    products = torch.matmul(left, right.transpose(2, 3)).masked_fill(~out.text_token_mask[None, :, None], 0)
    local = config.similarity_scale * products.max(2).values.sum(2)
    negatives = both_ways(~torch.eye(size, dtype=torch.bool, device=images.device))
    matching = hinge(both_ways(out.image_embeds @ out.text_embeds.T), negatives, config.margin, hardest=True)
    alignment = hinge(both_ways(local), negatives, config.margin, hardest=True)
    return matching + alignment + intra_modal_consistency(out.image_embeds, out.text_embeds, config.intra_margin)


def prepare(row: str) -> tuple[TGDTModel, Inputs, str, list[str], Callable[[TGDTModel, Inputs], Tensor]]:
    """Return model, batch, stage, frozen towers and loss of a row."""
    torch.manual_seed(0)
    if row in ("cached", "frozen-pixels", "pixels"):
        model = pixel_model()
        return model, pixel_inputs(model, row == "cached"), "joint", [] if row == "pixels" else ["vision"], ours
    model = paper_model(detach=row.startswith("heads"))
    torch.manual_seed(1)
    stage = "global" if row == "heads" else "joint"
    return model, paper_inputs(), stage, [], reference if row.endswith("reference") else ours


def measure(row: str, threads: int, repeat: int) -> dict[str, float]:
    """Take 1 + repeat steps in this process."""
    torch.set_num_threads(threads)
    model, inputs, stage, freeze, loss_of = prepare(row)
    model.train()
    seconds, first = [], 0.0
    with ExitStack() as stack:
        stack.enter_context(training_stage(model, stage, freeze))
        for module in frozen_modules(model):
            module.eval()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-5)
        for step in range(1 + repeat):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss = loss_of(model, inputs)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 2.0)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            first = first if step else float(loss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"best": min(seconds[1:]), "median": statistics.median(seconds[1:]), "gigabytes": peak, "loss": first}


ROWS = ("heads-reference", "heads", "all-reference", "all", "cached", "frozen-pixels", "pixels")


def main() -> None:
    """Print one table row per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    parser.add_argument("--measure", metavar="ROW", help=argparse.SUPPRESS)
    args = parser.parse_args()
    options = ["--threads", str(args.threads), "--repeat", str(args.repeat)]
    if args.measure:
        print(json.dumps(measure(args.measure, args.threads, args.repeat)))
        return
    torch.set_num_threads(args.threads)
    rows = [["row", "best s", "median s", "peak GB", "loss"]]
    for row in args.rows:
        command = [sys.executable, "-m", "benchmarks.train_step", "--measure", row, *options]
        result: Any = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip() or str(result.returncode)).splitlines()[-1]
            rows.append([row, f"failed: {reason}", "-", "-", "-"])
            continue
        found = json.loads(result.stdout.splitlines()[-1])
        values = f"{found['best']:.2f} {found['median']:.2f} {found['gigabytes']:.2f} {found['loss']:.4f}"
        rows.append([row, *values.split()])
    report(rows, "Training step", args.out)


if __name__ == "__main__":
    main()
