"""What the benchmarks write down: sections of RESULTS.md, the machine, and its arithmetic limit."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

HEADER = "# Results\n\nWritten by the benchmark commands named in each section.\n"


def write_section(path: str, title: str, text: str) -> None:
    """Add or replace the section `## title` of a Markdown file."""
    file = Path(path)
    content = file.read_text() if file.exists() else HEADER
    section = f"## {title}\n\n{text.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.S | re.M)
    if pattern.search(content):
        content = pattern.sub(lambda _: section + "\n", content)
    else:
        content = content.rstrip() + "\n\n" + section
    file.write_text(content.rstrip() + "\n")


def report(rows: list[list[str]], title: str, out: str | None, note: str = "") -> None:
    """Print a Markdown table, whose first row is its header, and write it as a section when `out` names a file."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    table = "\n".join(lines)
    print(table)
    if out:
        write_section(out, title, f"{note}{machine()}.\n\n```\n{command()}\n```\n\n{table}")


def machine() -> str:
    """One line: processor, cores, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "numpy"))
    return f"{name}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, {versions}"


def command() -> str:
    """The command line of this run."""
    return " ".join(
        ["python -m", Path(sys.argv[0]).resolve().parent.name + "." + Path(sys.argv[0]).stem, *sys.argv[1:]]
    )


@cache
def limits() -> dict[str, float]:
    """Multiply-add peak of one thread by dtype, operations per second: `peak.cpp`.

    Without a compiler, or on a processor that it does not know, float32 is that of a product of torch and the others
    are unknown (NaN).
    """
    with tempfile.TemporaryDirectory() as root:
        source, program = Path(__file__).with_name("peak.cpp"), Path(root) / "peak"
        try:
            subprocess.run(
                ["c++", "-O3", "-march=native", "-std=c++17", str(source), "-o", str(program)],
                check=True,
                capture_output=True,
            )
            found = [float(value) for value in subprocess.check_output([str(program)], text=True).split()]
        except (OSError, subprocess.CalledProcessError):
            found = [_float32_product(), *[math.nan] * 3]
    return dict(zip(("float32", "bfloat16", "int16", "int8"), found, strict=True))


def _float32_product(size: int = 1024) -> float:
    a = torch.ones(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
