# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Find the checkpoint to go on from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest checkpoint that was written to its end, or `None`.

    `trainer_state.json` is the last file of a checkpoint: a process that dies while saving leaves a folder without it,
    or with half of it, and the one before is used.

    Args:
        output_dir: Directory with `checkpoint-<step>` folders.
    """
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            logger.warning("%s is not complete, an older checkpoint is looked for.", folder)
            continue
        return str(folder)
    return None
