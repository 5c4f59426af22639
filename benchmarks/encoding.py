# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Photos and captions per second: the bare backbones, the whole model, sorted lengths, and decoding in workers.

    python -m benchmarks.encoding [--rows image text decode] [--threads 1] [--rounds 3] [--out benchmarks/RESULTS.md]

Backbones of the usual sizes with random weights: ViT-B/16 at 224 pixels and BERT-base; one round takes every version
in turn, and the median round counts. `paper` heads are the defaults of TGDTConfig (D = 1024, two local and two global
layers), `recipe` heads those of the modern recipe (D = 256, one and one). Captions have 5 to 40 words.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, ViTConfig

from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor, TGDTRetriever
from modeling_tgdt.encoding_tgdt import Encoder
from trainer.tokenizers import build_word_tokenizer

from .report import report

HEADS = {
    "paper": {},
    "recipe": {
        "projection_dim": 256,
        "num_attention_heads": 8,
        "intermediate_size": 1024,
        "num_local_layers": 1,
        "num_global_layers": 1,
        "box_encoding": "sum",
        "text_global_token": "mean",
    },
}
Versions = dict[str, tuple[Callable[[], object], int]]


def captions(count: int) -> list[str]:
    """Captions of 5 to 40 invented words."""
    rng = np.random.default_rng(0)
    return [" ".join(f"w{n}" for n in rng.integers(0, 2000, rng.integers(5, 41))) for _ in range(count)]


def model(heads: str, vision: bool = True) -> TGDTModel:
    """A model with random weights and backbones of base size."""
    torch.manual_seed(0)
    sizes = ViTConfig() if vision else None
    return TGDTModel(TGDTConfig(text_config=BertConfig(), vision_config=sizes, **HEADS[heads])).eval()


@torch.inference_mode()
def image_versions(batch: int = 16) -> Versions:
    """The vision backbone alone and below both kinds of heads."""
    pixels = torch.randn(batch, 3, 224, 224)
    made = {name: model(name) for name in HEADS}
    bare = made["paper"].vision_model
    versions: Versions = {"ViT-B/16 alone": (lambda: bare(pixel_values=pixels), batch)}
    for name, whole in made.items():
        versions[f"tgdt, {name} heads"] = (lambda whole=whole: whole.get_image_features(pixel_values=pixels), batch)
    return versions


def text_versions(count: int = 256, batch: int = 32) -> Versions:
    """The text backbone alone and the whole encoder, with and without sorting by length."""
    texts = captions(count)
    tokenizer = build_word_tokenizer(texts)
    inputs = [
        tokenizer(texts[start : start + batch], padding=True, return_tensors="pt") for start in range(0, count, batch)
    ]
    ordered = sorted(texts, key=len)
    by_length = [tokenizer(ordered[s : s + batch], padding=True, return_tensors="pt") for s in range(0, count, batch)]
    made = {name: model(name, vision=False) for name in HEADS}
    bare = made["paper"].text_model

    def alone(batches: list) -> None:
        for one in batches:
            bare(input_ids=one["input_ids"], attention_mask=one["attention_mask"])

    def unsorted(whole: TGDTModel) -> None:
        for one in inputs:
            whole.get_text_features(input_ids=one["input_ids"], attention_mask=one["attention_mask"])

    versions: Versions = {"BERT-base alone, as they come": (lambda: alone(inputs), count)}
    versions["BERT-base alone, by length"] = (lambda: alone(by_length), count)
    versions["tgdt, paper heads, as they come"] = (lambda: unsorted(made["paper"]), count)
    for name, whole in made.items():
        encoder = Encoder(whole, TGDTProcessor(TGDTImageProcessor(), tokenizer))
        versions[f"tgdt, {name} heads, by length"] = (lambda e=encoder: e.encode_texts(texts, batch), count)
    return versions


def decode_versions(folder: Path, count: int = 64) -> Versions:
    """A folder of JPEG files of camera size into a gallery, decoded by several numbers of threads."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        coarse.resize((1600, 1200), Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg")
    size = ViTConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768)
    texts = captions(8)
    tokenizer = build_word_tokenizer(texts)
    small = TGDTModel(TGDTConfig(text_config=BertConfig(num_hidden_layers=1), vision_config=size, **HEADS["recipe"]))

    def index(workers: int, draft: bool = False) -> None:
        retriever = TGDTRetriever(small.eval(), TGDTProcessor(TGDTImageProcessor(), tokenizer))
        retriever.add_images(folder, workers=workers, draft=draft, progress=False)

    encoder, files = Encoder(small.eval(), TGDTProcessor(TGDTImageProcessor(), tokenizer)), sorted(folder.iterdir())
    prepared = [encoder.prepare_image(file) for file in files]
    versions: Versions = {
        f"1600 x 1200 JPEG, {workers} worker(s)": (lambda w=workers: index(w), count) for workers in (1, 2, 4)
    }
    versions["the same, 1 worker, --draft"] = (lambda: index(1, draft=True), count)
    versions["decoding alone"] = (lambda: [encoder.prepare_image(file) for file in files], count)
    versions["decoding alone, --draft"] = (lambda: [encoder.prepare_image(file, draft=True) for file in files], count)
    versions["model alone"] = (lambda: encoder.encode_images(prepared), count)
    return versions


def rates(versions: Versions, rounds: int) -> list[tuple[str, float]]:
    """Items per second of each version, by its median round; all versions take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(rounds + 1):
        for name, (run, _) in versions.items():
            began = time.perf_counter()
            with torch.inference_mode():
                run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return [(name, count / statistics.median(seconds[name])) for name, (_, count) in versions.items()]


def main() -> None:
    """Print, and maybe write, one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=["image", "text", "decode"], default=["image", "text", "decode"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="Markdown file to write the section into")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = [["what", "items/s", "time of the first of its kind"]]
    with tempfile.TemporaryDirectory() as folder:
        for row in args.rows:
            versions = {"image": image_versions, "text": text_versions}.get(
                row, lambda: decode_versions(Path(folder))
            )()
            found = rates(versions, args.rounds)
            table += [[name, f"{rate:.1f}", f"x {found[0][1] / rate:.2f}"] for name, rate in found]
    report(table, "Encoding", args.out)


if __name__ == "__main__":
    main()
