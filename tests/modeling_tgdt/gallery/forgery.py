# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Galleries as a stranger may send them: forged, with every checksum right."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_tgdt.gallery.storage import replace_json
from modeling_tgdt.index_tgdt import TGDTIndex

ITEMS, DIM = 6, 4


def small_gallery(path: Path, **options: Any) -> Path:
    """Make a gallery of six items, "a" to "f", of which "b" was deleted."""
    rng = np.random.default_rng(0)
    vectors, tokens = rng.normal(size=(ITEMS, DIM)), rng.normal(size=(ITEMS, 2, DIM))
    with TGDTIndex.create(path, **({"dim": DIM, "token_dtype": "int8"} | options)) as index:
        index.add(list("abcdef"), vectors, tokens, metadata={"year": list(range(ITEMS)), "name": list("uvwxyz")})
        index.delete(["b"])
        if options.get("engine") == "faiss":
            index.compact()
    return path


def manifest_of(path: Path) -> dict[str, Any]:
    """Return the content of a manifest, without its checksum."""
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    content.pop("checksum")
    return content


def forge(path: Path, content: dict[str, Any]) -> None:
    """Write a manifest with the checksum that it needs."""
    replace_json(path / "manifest.json", content)


def seal(path: Path) -> None:
    """Bring every length and checksum of a manifest up to what lies in the files."""
    content = manifest_of(path)
    files = [(path / segment["name"] / name, entry) for segment in content["segments"] for name, entry in
             segment["files"].items()]  # fmt: skip
    files += [(path / name, entry) for key in ("deleted", "engine_files") for name, entry in content[key].items()]
    for file, entry in files:
        if file.is_file():
            data = file.read_bytes()
            entry[:] = [len(data), zlib.crc32(data)]
    forge(path, content)


def segment_of(path: Path) -> Path:
    """Return the directory of a gallery's first segment."""
    return next(path.glob("segment-*"))


def write_rows(path: Path, *tables: Any) -> None:
    """Put other tables into `rows.arrow`, sealed."""
    with open(segment_of(path) / "rows.arrow", "wb") as file:
        for table in tables:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    seal(path)


def use(path: Path) -> None:
    """Do with a gallery what its finder would do: open, look at it, search, and write to it."""
    query = np.ones((1, DIM), np.float32)
    with TGDTIndex.open(path) as index:
        index.verify()
        for mode in ("two_stage", "global", "local"):
            index.search(query[:, : index.dim], query[None, :, : index.dim], mode=mode, where={"year": [2, 3]})
        index.search(query, query[None])
        index.get(list(index))
        index.add(["new"], query, query[None], metadata={"year": [1]})
        index.delete(["new"])
        index.compact()


def every_file(path: Path) -> Iterator[str]:
    """Yield the names of all files of a gallery, below its directory."""
    for parent, _, names in os.walk(path):
        yield from (Path(parent, name).relative_to(path).as_posix() for name in sorted(names))
