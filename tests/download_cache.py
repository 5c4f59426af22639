# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A directory laid out as huggingface_hub's download cache: links in `snapshots` to files in `blobs`."""

import os
import shutil
from pathlib import Path


def as_download_cache(source: Path, cache: Path) -> Path:
    """Copy the files of a directory into a cache and return its snapshot, a directory of links."""
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        link, blob = snapshot / path.relative_to(source), cache / "blobs" / str(number)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
