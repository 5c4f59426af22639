# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery on a system without the calls of POSIX, and at the limits of its engines and formats."""

import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from modeling_tgdt import TGDTIndex
from modeling_tgdt.gallery import storage
from modeling_tgdt.gallery.storage import GalleryBusyError, append_bytes


def add(index: TGDTIndex, names: list[str], **options: Any) -> None:
    vectors = np.eye(4, dtype=np.float32)[: len(names)]
    index.add(names, vectors, vectors[:, None], **options)


class BytesLocked:
    """What Windows offers: locks of bytes, which refuse a second holder."""

    LK_NBLCK, LK_UNLCK = 1, 2

    def __init__(self) -> None:
        self.held: set[tuple[int, int]] = set()

    def locking(self, handle: int, mode: int, count: int) -> None:
        place = (os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR))
        if mode == self.LK_NBLCK and place in self.held:
            raise PermissionError("locked")
        self.held.symmetric_difference_update({place})


def test_a_gallery_works_without_posix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pwrite", "pread", "fork"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(storage, "fcntl", None)
    monkeypatch.setattr(storage, "msvcrt", BytesLocked())
    index = TGDTIndex.create(tmp_path / "g", dim=4)
    add(index, ["a", "b"])
    with pytest.raises(GalleryBusyError, match=f"process {os.getpid()}"):
        add(TGDTIndex.open(tmp_path / "g"), ["c"])
    index.delete(["b"])
    index.compact()
    index.close()
    other = TGDTIndex.open(tmp_path / "g")
    add(other, ["c"])
    assert set(other) == {"a", "c"} and not other.verify()


def test_a_file_that_cannot_be_cut_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"old and left behind")
    monkeypatch.setattr(storage, "_cut", lambda file, size: None)  # what Windows does for a mapped file
    length, _ = append_bytes(tmp_path, "f", [4, 0], [b"new"])
    assert (tmp_path / "f").read_bytes()[:length] == b"old new"


def test_offsets_have_64_bits(tmp_path: Path) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=4)
    add(index, ["a", "b"], metadata=[{"page": "x", "tags": ["p", "q"]}, {"page": "y"}])
    index.close()
    index = TGDTIndex.open(tmp_path / "g")
    table = index._backend.gallery.snapshot.segments[0].table  # type: ignore[union-attr]
    assert table.schema.field("id").type == table.schema.field("meta:page").type == pa.large_string()
    assert table.schema.field("meta:tags").type == pa.large_list(pa.large_string())
    assert dict(index.metadata_types or {})["page"] == "string"
    vectors = np.eye(4, dtype=np.float32)
    assert index.search(vectors[:1], vectors[:1, None], where={"page": "x"}).metadata[0] == [
        {"page": "x", "tags": ["p", "q"]}
    ]


@pytest.mark.parametrize("fields", [{}, {"year": 2024}])
def test_faiss_scans_what_the_graph_does_not_find(tmp_path: Path, fields: dict[str, Any]) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = np.eye(2, 16, dtype=np.float32)
    vectors = np.repeat(centres, [900, 100], axis=0) + 0.05 * rng.normal(size=(1000, 16)).astype(np.float32)
    names = [f"{number:04d}" for number in range(1000)]
    index = TGDTIndex.create(tmp_path / "g", dim=16, engine="faiss", engine_options={"min_rows": 1, "ef_search": 16})
    index.add(names, vectors, vectors[:, None], metadata={"year": [2023] * 900 + [2024] * 100})
    index.compact()
    if not fields:
        index.delete(names[:900])
    found = index.search(centres[:1], centres[:1, None], top_k=10, mode="global", where=fields or None).ids[0]
    best = sorted(names[900:], key=lambda name: -float(vectors[int(name)] @ centres[0]))
    assert found == best[:10]


def test_requests_to_qdrant_are_bounded_in_bytes() -> None:
    qdrant = pytest.importorskip("modeling_tgdt.gallery.qdrant.backend")
    retry = pytest.importorskip("modeling_tgdt.gallery.qdrant.connection").retry
    counts = np.array([196] * 64)
    runs = list(qdrant._batches(counts, 256, [{}] * 64))
    assert [run.start for run in runs[1:]] == [run.stop for run in runs[:-1]] and runs[-1].stop == 64
    assert all((run.stop - run.start) * 197 * 256 * 20 < 32 << 20 for run in runs)
    assert [run.stop for run in qdrant._batches(np.ones(130), 8, [{}] * 130)] == [64, 128, 130]
    refused = type("UnexpectedResponse", (Exception,), {"status_code": 400})("JSON payload is larger than allowed")
    with pytest.raises(ValueError, match="refused a request: JSON payload is larger"):
        retry(lambda: (_ for _ in ()).throw(refused), {"url": "http://q"})


def test_many_ties_come_in_the_order_of_ids(tmp_path: Path) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=4)
    names = [f"{number:05d}" for number in np.random.default_rng(0).permutation(6000)]
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (6000, 1))
    vectors[:2] = 2 * vectors[:2]
    index.add(names, vectors, vectors[:, None])
    for mode in ("global", "two_stage"):
        found = index.search(vectors[2:3], vectors[2:3, None], top_k=5, mode=mode).ids[0]  # type: ignore[arg-type]
        assert found == [*sorted(names[:2]), *sorted(names[2:])[:3]]


def test_metadata_is_replaced_and_embeddings_stay(tmp_path: Path) -> None:
    index = TGDTIndex.create(tmp_path / "g", dim=4, token_dtype="int8", segment_rows=2)
    for names in (["a", "b"], ["c"]):
        add(index, names, metadata=[{"year": 1}] * len(names))
    before = index.get(["a", "b", "c"])
    assert index.update_metadata(["c", "a", "b"], [{"year": 2}, {"year": 3}, {"year": 1}]) == 2
    after = index.get(["a", "b", "c"])
    assert np.array_equal(before[0], after[0]) and all(map(np.array_equal, before[1], after[1]))
    vectors = np.eye(4, dtype=np.float32)
    found = index.search(vectors[:1], vectors[:1, None], where={"year": 3})
    assert found.ids == [["a"]] and SimpleNamespace(**found.metadata[0][0]).year == 3
    with pytest.raises(KeyError):
        index.update_metadata(["z"], [{}])


def test_the_module_has_its_old_name_too() -> None:
    assert import_module("modeling_tgdt.storage_tgdt") is import_module("modeling_tgdt.gallery.storage")
