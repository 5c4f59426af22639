# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Index a folder of very many files, most of them empty or damaged: what is added, what is skipped, at what cost.

python -m benchmarks.big_folder --files 60000 --readable 500
"""

import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serve_gallery import make_retriever


def make_folder(root: Path, files: int, readable: int) -> None:
    """Write `readable` pictures spread among empty, cut and foreign files, a thousand per sub-folder."""
    rng, every = np.random.default_rng(0), max(1, files // readable)
    for number in range(files):
        path = root / f"{number // 1000:03}" / f"{number:06} 図.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % every == 0 and number // every < readable:
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48)).save(path)
            whole = path.read_bytes()
        else:
            path.write_bytes([b"", whole[:300], b"no picture", b"\xff\xd8\xff\xe0" + bytes(40)][number % 4])


def main() -> None:
    """Make the folder, index it, and index it again with `resume`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--readable", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        make_folder(pictures, args.files, args.readable)
        retriever = make_retriever()
        retriever.create_index(Path(folder, "gallery"))
        for resume in (False, True):
            start = time.perf_counter()
            report = retriever.add_images(pictures, on_error="skip", resume=resume, progress=False)
            seconds = time.perf_counter() - start
            reasons = Counter(why.split(": ", 1)[-1].rsplit("jpg' ", 1)[-1][:50] for _, why in report.skipped)
            found = f"{report.added} added, {report.unchanged} unchanged, {len(report.skipped)} skipped"
            print(f"resume={resume}: {found} in {seconds:.1f} s", flush=True)
        for why, count in reasons.most_common():
            print(f"{count:>8}  {why}")
        problems = None if retriever.index is None else retriever.index.verify()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"verify: {problems}, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
