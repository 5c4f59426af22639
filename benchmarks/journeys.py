# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Seconds of a newcomer's journeys, from a fresh clone: every command that examples/README.md shows, in its order.

    python -m benchmarks.journeys [--out benchmarks/RESULTS.md]

The commit that is checked out is cloned into an empty folder. `make env` and `make demo` run there first, from
nothing; each command has a process of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from .report import report

ROOT = Path(__file__).resolve().parents[1]


def commands(readme: str) -> list[str]:
    """Return the commands of the console blocks, run with the environment of the clone."""
    return [".venv/bin/python " + rest for rest in re.findall(r"^\$ python (examples/.*)$", readme, re.M)]


def timed(command: str, folder: Path) -> float:
    """Run a command; return its seconds.

    Raises:
        RuntimeError: When it fails, with the end of what it printed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    began = time.perf_counter()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return time.perf_counter() - began


def main() -> None:
    """Time every step and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="Markdown file whose section is replaced")
    args = parser.parse_args()
    rows = [["command", "seconds"]]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), name], check=True)
        clone = Path(name)
        steps = ["make env", "make demo", *commands((clone / "examples" / "README.md").read_text(encoding="utf-8"))]
        for step in steps:
            seconds = timed(step, clone)
            rows.append([f"`{step.removeprefix('.venv/bin/')}`", f"{seconds:.1f}"])
            print(f"{seconds:7.1f} s  {step}", flush=True)
    report(rows, "Journeys", args.out)


if __name__ == "__main__":
    main()
