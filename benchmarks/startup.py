# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""CPU seconds until something happens: the help of every verb, the import, and a search of a small gallery.

    python -m benchmarks.startup [--before CHECKOUT] [--out benchmarks/RESULTS.md]

Each figure is the median, over rounds that take turns, of user and system time of a process of its own; the files are
in the system's cache. `--before` runs the same once in another checkout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from .report import report

ROOT = Path(__file__).resolve().parents[1]
CLI = "import sys; from trainer.cli import main; sys.exit(main())"
CLIP, PACKAGE = "from transformers import CLIPModel", "import modeling_tgdt"
# A random model of two small towers, and thirty pictures in its gallery.
GALLERY = """
import sys
import numpy as np
from transformers import BertConfig, ViTConfig
from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor, TGDTRetriever
from trainer.tokenizers import build_word_tokenizer
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
tokenizer = build_word_tokenizer(["a red ball on a blue box"])
config = TGDTConfig(
    text_config=BertConfig(**sizes, vocab_size=len(tokenizer)),
    vision_config=ViTConfig(**sizes, image_size=32, patch_size=8),
    projection_dim=32, intermediate_size=64, region_feature_size=32, num_region_layers=1,
)
processor = TGDTProcessor(TGDTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
retriever = TGDTRetriever(TGDTModel(config).eval(), processor)
pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
retriever.add_images(list(pictures), progress=False)
retriever.save_pretrained(sys.argv[1])
"""


def cpu_seconds(code: str, *arguments: str, root: Path) -> float:
    """Run Python code with a checkout's packages; return the user and system time that it took.

    Raises:
        RuntimeError: When it fails, with the end of what it said.
    """
    environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(
                f"{code} {arguments} ended with {process.returncode}:\n{errors.read().decode()[-2000:]}"
            )
    return usage.ru_utime + usage.ru_stime


def measure(root: Path, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of every start in a checkout."""
    verbs = sorted(path.stem for path in (root / "trainer/commands").glob("*.py") if path.stem not in _NO_VERBS)
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as gallery:
        cpu_seconds(GALLERY, gallery, root=root)
        for number in range(rounds):
            times[CLIP].append(cpu_seconds(CLIP, root=root))
            times[PACKAGE].append(cpu_seconds(PACKAGE, root=root))
            times["search"].append(cpu_seconds(CLI, "search", gallery, "a red ball", root=root))
            times["help"].append(cpu_seconds(CLI, "--help", root=root))
            for verb in verbs:
                times[f"help of {verb}"].append(cpu_seconds(CLI, verb, "--help", root=root))
            print(f"round {number + 1} of {rounds} in {root}", flush=True)
    found = {name: statistics.median(values) for name, values in times.items()}
    return {
        "`tgdt --help`": found["help"],
        "slowest `tgdt VERB --help`": max(found[f"help of {verb}"] for verb in verbs),
        f"`{CLIP}`": found[CLIP],
        f"`{PACKAGE}`": found[PACKAGE],
        "`tgdt search` of 30 pictures": found["search"],
        "`tgdt search` above `import modeling_tgdt`": found["search"] - found[PACKAGE],
    }


_NO_VERBS = ("__init__", "common")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    args = parser.parse_args()
    columns = [measure(ROOT, args.rounds)]
    names = ["now"]
    if args.before is not None:
        columns.insert(0, measure(args.before.resolve(), 1))
        commit = subprocess.check_output(["git", "-C", args.before, "rev-parse", "--short", "HEAD"], text=True).strip()
        names.insert(0, f"{commit}, one run")
    rows = [["CPU seconds", *names]]
    rows += [[name, *(f"{column.get(name, float('nan')):.2f}" for column in columns)] for name in columns[-1]]
    report(rows, "Start", args.out)


if __name__ == "__main__":
    main()
