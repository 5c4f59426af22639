"""Index photos with several processes: the same gallery as one process makes, also after kills; time beside it.

python -m benchmarks.launch_index --dataset FLICKR8K_PARQUET_DIR --photos 2000 --processes 2 4 --kills 30

The processes are forked gloo processes with a tiny random model, so that what is measured is the sharing. A real
launch is `accelerate launch --multi_gpu --num_processes 2 -m trainer.cli index ...`.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import distributed as dist
from transformers import BertConfig, ViTConfig

from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTIndex, TGDTModel, TGDTProcessor, TGDTRetriever
from modeling_tgdt.retriever import filling
from trainer.tokenizers import build_word_tokenizer

fork = multiprocessing.get_context("fork")
_KILLED_COMMITS = 0.02  # seconds between the commits of runs that are killed, so that kills meet them


QUERIES = ["a dog runs", "two people on a beach", "red", "a man in the snow"]


def tiny_retriever() -> TGDTRetriever:
    """Return a random model of two small layers per branch."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    tokenizer = build_word_tokenizer(QUERIES)
    vision = ViTConfig(**sizes, image_size=32, patch_size=8, initializer_range=0.5)
    text = BertConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.5)
    heads = {"projection_dim": 32, "intermediate_size": 64, "initializer_range": 0.3}
    model = TGDTModel(TGDTConfig(text_config=text, vision_config=vision, **heads)).eval()
    return TGDTRetriever(model, TGDTProcessor(TGDTImageProcessor(size={"height": 32, "width": 32}), tokenizer))


def write_photos(dataset: Path, folder: Path, count: int, side: int) -> None:
    """Write small copies of the first photos of a Parquet data set."""
    from datasets import Image as Pictures
    from datasets import load_dataset

    folder.mkdir()
    rows = load_dataset("parquet", data_files=str(dataset / "*.parquet"), split="train", streaming=True)
    rows = rows.cast_column("image", Pictures(decode=False))
    for number, row in enumerate(rows.take(count)):
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        image.draft("RGB", (side, side))
        image.convert("RGB").resize((side, side)).save(folder / f"{number:05d}.jpg")


def fill(rank: int, size: int, meeting: Path, photos: Path, gallery: Path, retriever: Any, commits: float) -> None:
    """Be one process of a launch."""
    filling._COMMIT_SECONDS = commits  # type: ignore[misc]
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    retriever.create_index(gallery, exist_ok=True)
    retriever.add_images(photos, batch_size=16, resume=True, workers=1, progress=False)
    if size > 1:
        dist.barrier()
        os._exit(0)  # see README: gloo's threads outlive the group


def launch(size: int, *arguments: Any) -> list[Any]:
    """Start the processes."""
    meeting = Path(tempfile.mkdtemp(), "meeting")
    processes = [fork.Process(target=fill, args=(rank, size, meeting, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any]) -> None:
    """Wait for the processes of a launch; RuntimeError when one failed."""
    for process in processes:
        process.join()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"processes of a launch ended with {codes}")


def difference(retriever: Any, one: Path, other: Path) -> float:
    """Compare two galleries; return the largest difference of a token, RuntimeError for any other."""
    a, b = TGDTIndex.open(one), TGDTIndex.open(other)
    names = sorted(a)
    if names != sorted(b) or a.verify() or b.verify():
        raise RuntimeError(f"{len(a)} items in one gallery, {len(b)} in the other, damage: {a.verify() + b.verify()}")
    (vectors, tokens), (others, found) = a.get(names), b.get(names)
    queries = retriever.encode_texts(QUERIES)
    ranked = [index.search(queries.global_embeds, queries.token_embeds, top_k=50) for index in (a, b)]
    for first, second in zip(ranked[0].scores, ranked[1].scores, strict=True):
        np.testing.assert_allclose(first, second, atol=2e-3)
    if [ids[:1] for ids in ranked[0].ids] != [ids[:1] for ids in ranked[1].ids]:
        raise RuntimeError("the galleries rank differently")
    np.testing.assert_allclose(vectors, others, atol=1e-5)
    return max(float(np.abs(x - y).max()) for x, y in zip(tokens, found, strict=True))


def kill_one(size: int, seconds: float, chance: random.Random, *arguments: Any) -> str:
    """Kill one process at some moment and the others with it, as launchers do; return what was there by then."""
    processes = launch(size, *arguments)
    time.sleep(seconds)
    processes.insert(0, processes.pop(chance.randrange(size)))
    finished = all(process.exitcode == 0 for process in processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    gallery = arguments[1]
    if finished:
        return "after the end"
    return "during the work" if any(gallery.glob("part-*.json")) else "before the first part"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--model", help="default: a tiny random one")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--side", type=int, default=64, help="pixels of the copies")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--killed-photos", type=int, default=300, help="photos of the runs that are killed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    retriever = TGDTRetriever.from_pretrained(options.model) if options.model else tiny_retriever()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(options.dataset, root / "photos", options.photos, options.side)
        few = root / "few"
        few.mkdir()
        for path in sorted((root / "photos").iterdir())[: options.killed_photos]:
            os.link(path, few / path.name)
        for size in (1, *options.processes):
            began = time.perf_counter()
            finish(launch(size, root / "photos", root / f"g{size}", retriever, 10.0))
            taken = time.perf_counter() - began
            worst = difference(retriever, root / "g1", root / f"g{size}")
            print(f"{size} processes: {taken:.1f} s, {options.photos} photos, largest token difference {worst:.2g}")
        finish(launch(1, few, root / "expected", retriever, 10.0))
        chance, seen = random.Random(0), dict[str, int]()
        began = time.perf_counter()
        finish(launch(options.processes[0], few, root / "timing", retriever, _KILLED_COMMITS))
        longest = time.perf_counter() - began
        for kill in range(options.kills):
            own = few, root / f"killed-{kill}", retriever, _KILLED_COMMITS
            moment = kill_one(options.processes[0], chance.uniform(0, longest), chance, *own)
            seen[moment] = seen.get(moment, 0) + 1
            finish(launch(options.processes[0], *own))
            difference(retriever, root / "expected", root / f"killed-{kill}")
        print(f"{options.kills} kills of one of {options.processes[0]} processes ({seen}), each resumed: all equal")


if __name__ == "__main__":
    main()
