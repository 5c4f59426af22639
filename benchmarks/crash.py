"""Kill a gallery's writer with SIGKILL at random moments and check that every reopened gallery is a committed state.

python -m benchmarks.crash --kills 200
python -m benchmarks.crash --kills 200 --engine faiss      # compact then also builds the engine again
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from modeling_tgdt.index_tgdt import TGDTIndex

DIM, NAMES = 8, 40
State = dict[str, int]  # id -> number of the step that wrote it
ENGINES: dict[str, dict[str, object]] = {"exact": {}, "faiss": {"min_rows": 1, "factory": "HNSW8"}}


def step_of(number: int, state: State) -> tuple[str, list[str]]:
    """Return what step `number` does to a gallery in `state`: an action and its ids."""
    chance = random.Random(number)
    action = chance.choices(["add", "delete", "compact"], [6, 2, 2])[0]
    if action == "delete":
        return action, chance.sample(sorted(state), min(len(state), 3))
    return action, [f"item {i}" for i in chance.sample(range(NAMES), 6)]


def after(number: int, state: State) -> State:
    """Return the state that step `number` leads to."""
    action, ids = step_of(number, state)
    if action == "delete":
        return {name: version for name, version in state.items() if name not in ids}
    return {**state, **dict.fromkeys(ids, number)} if action == "add" else state


def run_step(index: TGDTIndex, number: int, state: State) -> None:
    """Do step `number` on a gallery."""
    action, ids = step_of(number, state)
    rng = np.random.default_rng(number)
    if action == "add":
        tokens = rng.normal(size=(len(ids), 3, DIM))
        index.add(ids, rng.normal(size=(len(ids), DIM)), tokens, metadata={"step": [number] * len(ids)})
    elif action == "delete":
        index.delete(ids)
    else:
        index.compact()


def work(path: Path, number: int, state: State, done: int) -> None:
    """Do steps from `number` on for ever; write one byte to the pipe `done` before the first and after each."""
    index = TGDTIndex.open(path)
    os.write(done, b".")
    while True:
        run_step(index, number, state)
        os.write(done, b".")
        number, state = number + 1, after(number, state)


def read_state(path: Path) -> State:
    """Reopen, verify, and read the state back; raise RuntimeError when the gallery is damaged."""
    index = TGDTIndex.open(path)
    if problems := index.verify():
        raise RuntimeError(f"damaged after a kill: {problems}")
    if not len(index):
        return {}
    rng = np.random.default_rng(0)
    found = index.search(rng.normal(size=(1, DIM)), rng.normal(size=(1, 2, DIM)), top_k=NAMES, candidates=NAMES)
    return {name: values["step"] for name, values in zip(found.ids[0], found.metadata[0], strict=True)}


def kill_writers(
    path: Path, kills: int, seed: int = 0, *, longest: float = 0.15, engine: str = "exact"
) -> tuple[int, Counter[str]]:
    """Run and kill `kills` writers of one gallery.

    Args:
        path: The gallery, made here.
        kills: How many writers.
        seed: Of the moments.
        longest: Seconds that a writer may live.
        engine: A key of `ENGINES`.

    Returns:
        How many steps were committed in all, and how many kills hit each action.

    Raises:
        RuntimeError: When a reopened gallery is not the state before or after the interrupted step.
    """
    with TGDTIndex.create(path, dim=DIM, segment_rows=16, engine=engine, engine_options=ENGINES[engine]):
        pass
    chance, hit = random.Random(seed), Counter[str]()
    number, state = 0, State()
    for kill in range(kills):
        for _ in range(run_and_kill(path, number, state, chance.uniform(0, longest))):
            number, state = number + 1, after(number, state)
        hit[step_of(number, state)[0]] += 1
        found = read_state(path)
        if found != state:
            number, state = number + 1, after(number, state)
        if found != state:
            raise RuntimeError(f"kill {kill}: the gallery is neither the state before nor after step {number - 1}")
    return number, hit


def run_and_kill(path: Path, number: int, state: State, seconds: float) -> int:
    """Let a writer work from step `number` on for some seconds, kill it, return how many steps it had finished."""
    done, writing = os.pipe()
    writer = multiprocessing.get_context("fork").Process(target=work, args=(path, number, state, writing), daemon=True)
    writer.start()
    os.close(writing)
    os.read(done, 1)  # the writer is ready: every kill hits a step, not the start
    time.sleep(seconds)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    finished = 0
    while block := os.read(done, 4096):
        finished += len(block)
    os.close(done)
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, default="exact")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        steps, hit = kill_writers(Path(root) / "gallery", options.kills, options.seed, engine=options.engine)
    print(f"{options.kills} kills ({dict(hit)}), {steps} committed steps, nothing lost, every gallery sound")


if __name__ == "__main__":
    main()
