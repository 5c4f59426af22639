# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A CLIP of the true ViT-B/32 shape, with random weights, taken up: how far embeddings and logits are from its own.

    python -m benchmarks.dual_encoder_parity [--out benchmarks/RESULTS.md]

Exits with 1 where the largest difference is above 1e-5 in float32, or above 1e-2 in bfloat16 (logits as cosines).
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import torch
from transformers import CLIPConfig, CLIPModel

from modeling_tgdt import TGDTModel

from .report import report

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
START, END = 49406, 49407


def inputs() -> dict[str, torch.Tensor]:
    """Return two pictures, and three texts of different lengths in one batch, padded with the end token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((3, 20), END)
    mask = torch.zeros(3, 20, dtype=torch.long)
    for row, words in enumerate((3, 9, 18)):
        ids[row, 0] = START
        ids[row, 1 : words + 1] = torch.randint(1, START, (words,), generator=generator)
        mask[row, : words + 2] = 1
    pixels = torch.randn(2, 3, 224, 224, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@torch.inference_mode()
def differences(folder: str, dtype: torch.dtype) -> dict[str, float]:
    """Return the largest difference of each output between a CLIP on disk and the model that takes it up."""
    source = CLIPModel.from_pretrained(folder, dtype=dtype).eval()
    expected = source(**inputs())
    scale = float(source.logit_scale.exp())
    del source
    found = TGDTModel.from_dual_encoder_pretrained(folder, dtype=dtype)(**inputs())
    pairs = {
        "image embeddings": (found.image_embeds, expected.image_embeds),
        "text embeddings": (found.text_embeds, expected.text_embeds),
        "logits / scale": (found.logits_per_image, expected.logits_per_image / scale),
    }
    return {name: float((mine.float() - own.float()).abs().max()) for name, (mine, own) in pairs.items()}


def main() -> None:
    """Compare in both precisions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig())  # the defaults are those of ViT-B/32
    rows, within = [["precision", "output", "largest difference", "limit"]], True
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        for dtype, limit in LIMITS.items():
            for name, value in differences(folder, dtype).items():
                rows.append([str(dtype).removeprefix("torch."), name, f"{value:.1e}", f"{limit:.0e}"])
                within = within and value <= limit
    report(rows, "CLIP of the ViT-B/32 shape", args.out)
    sys.exit(not within)


if __name__ == "__main__":
    main()
