"""Runs that are killed while they write a checkpoint: `python -m tests.trainer.killed_run OUT FILES [FILES ...]`.

For every number of files a forked process trains in OUT/<files> and dies by SIGKILL as soon as its second checkpoint
holds that many files; where it never does, the process dies at the end of its run.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from tests.trainer.test_cmc_trainer import make_trainer


def killed_run(folder: Path, files: int) -> None:
    """Train five steps with a checkpoint at steps 2 and 4, of which only the newest is kept; never returns."""
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    trainer = make_trainer(folder, **options)
    checkpoint = folder / "checkpoint-4"

    def watch() -> None:
        while not checkpoint.is_dir() or sum(1 for _ in checkpoint.iterdir()) < files:
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    sys.setswitchinterval(1e-5)
    threading.Thread(target=watch, daemon=True).start()
    trainer.train()
    os.kill(os.getpid(), signal.SIGKILL)


def main(out: Path, counts: list[int]) -> None:
    for files in counts:
        process = os.fork()
        if not process:
            killed_run(out / str(files), files)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"The run for {files} files was not killed: {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(count) for count in sys.argv[2:]])
