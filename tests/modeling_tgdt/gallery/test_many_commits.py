# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery of very many small commits, or of very many segments, opens like any other."""

import os
from pathlib import Path

import numpy as np
import pytest

from modeling_tgdt import TGDTIndex
from modeling_tgdt.gallery import files, mapping
from tests.modeling_tgdt.gallery.index_twin import unit

DIM = 4


def add(index: TGDTIndex, *names: str, version: int = 0) -> None:
    rng = np.random.default_rng([version, *map(ord, names[0])])
    index.add(names, unit(rng, len(names), DIM), unit(rng, len(names), 2, DIM), metadata={"v": [version] * len(names)})


def test_small_commits_are_joined_and_nothing_else_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SMALL_COMMITS", 3)
    monkeypatch.setattr(files, "_JOINED_ROWS", 8)
    path, versions = tmp_path / "gallery", {f"item {number}": 0 for number in range(20)}
    reader = TGDTIndex.create(path, dim=DIM)
    index = TGDTIndex.open(path)
    for name in versions:
        add(index, name)
    index.close()
    reader.refresh()
    before = reader.search(np.eye(1, DIM), [np.eye(1, DIM)], top_k=30)
    with TGDTIndex.open(path) as index:  # another process counts anew
        for number in (1, 7, 12, 19):
            add(index, f"item {number}", version=1)
            versions[f"item {number}"] = 1
        index.delete(["item 3"])
        del versions["item 3"]
    found = TGDTIndex.open(path)
    assert found.verify() == [] and sorted(found) == sorted(versions)
    segments = found._backend.gallery.snapshot.segments  # type: ignore[union-attr]
    assert [segment.commits for segment in segments[:-1]] == [1] * (len(segments) - 1) and segments[-1].commits <= 3
    assert len(segments) <= 4 and len(list(path.glob("segment-*"))) <= len(segments) + 1
    ranked = found.search(np.eye(1, DIM), [np.eye(1, DIM)], top_k=30)
    assert {name: row["v"] for name, row in zip(ranked.ids[0], ranked.metadata[0], strict=True)} == versions
    for name, version in versions.items():
        rng = np.random.default_rng([version, *map(ord, name)])
        np.testing.assert_allclose(found.get([name])[0], unit(rng, 1, DIM), atol=1e-6)
    after = reader.search(np.eye(1, DIM), [np.eye(1, DIM)], top_k=30)  # of files that are gone by now
    assert after.ids == before.ids and reader.refresh() and sorted(reader) == sorted(versions)


def test_a_large_segment_is_closed_and_not_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SMALL_COMMITS", 2)
    monkeypatch.setattr(files, "_JOINED_ROWS", 4)
    with TGDTIndex.create(tmp_path / "gallery", dim=DIM) as index:
        add(index, *map(str, range(8)))
        (name,) = [path.name for path in index.path.glob("segment-*")]
        for number in range(8, 12):
            add(index, str(number))
        assert (index.path / name).exists() and len(list(index)) == 12 and index.verify() == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc, which Linux alone has")
def test_segments_hold_no_descriptors_and_give_their_memory_back(tmp_path: Path) -> None:
    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    with TGDTIndex.create(tmp_path / "gallery", dim=DIM, segment_rows=1) as index:
        for number in range(12):
            add(index, str(number))
    opened = len(os.listdir("/proc/self/fd"))
    other = TGDTIndex.open(tmp_path / "gallery")
    assert len(other.search(np.eye(1, DIM), [np.eye(1, DIM)], top_k=20).ids[0]) == 12
    assert len(os.listdir("/proc/self/fd")) <= opened and mapped() >= 12
    globals_ = other._backend.gallery.snapshot.segments[0].globals  # type: ignore[union-attr]
    assert not globals_.flags.writeable
    del index, other
    assert mapped() == 1 and np.isfinite(globals_).all()  # an array keeps what it looks at


def test_a_file_that_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY) if os.name == "posix" else os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=r"\w"):
            mapping.map_bytes(handle, 8)
    finally:
        os.close(handle)
