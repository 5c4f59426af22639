# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Find the checkpoint to go on from."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest checkpoint that was written to its end, or `None`.

    `trainer_state.json` is the last file of a checkpoint: a process that dies while saving leaves a folder without it,
    or with half of it. A full disk or a broken copy may cut any other file. The one before is used then.

    Args:
        output_dir: Directory with `checkpoint-<step>` folders.
    """
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True):
        if (why := _damage(folder)) is None:
            return str(folder)
        logger.warning("%s is not used, an older checkpoint is looked for: %s.", folder, why)
    return None


def _damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint's files; the archives of `torch.save` are read whole, for their sums."""
    name = "trainer_state.json"
    try:
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in _shards(folder) - {path.name for path in folder.iterdir()}:
            return f"{name} is missing"
        for path in sorted(folder.iterdir()):
            name = path.name
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # compares the header with the length of the file
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                with zipfile.ZipFile(path) as archive:
                    if (part := archive.testzip()) is not None:
                        return f"{name} is damaged (its {part})"
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
    ) as error:
        return f"{name} is missing or damaged ({error})"
    return None


def _shards(folder: Path) -> set[str]:
    """Return the names of the files that an index of a large model names."""
    indices = folder.glob("*.index.json")
    return {name for path in indices for name in json.loads(path.read_text())["weight_map"].values()}
