# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery that several processes fill together: one commit, one lock, nothing lost when a process dies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_tgdt import TGDTIndex
from modeling_tgdt.gallery import storage
from modeling_tgdt.gallery.qdrant.backend import QdrantBackend
from modeling_tgdt.gallery.storage import GalleryBusyError
from tests.modeling_tgdt.gallery.index_twin import unit
from tests.modeling_tgdt.gallery.qdrant_server import KEY, qdrant_server
from tests.process_threads import ThreadGroup, in_processes

DIM = 8


def create(path: Path, **options: Any) -> Path:
    TGDTIndex.create(path, dim=DIM, segment_rows=3, **options).close()
    return path


def add(index: TGDTIndex, numbers: range, version: int = 0, **metadata: Any) -> None:
    """Add items whose embeddings follow from their number and version."""
    for number in numbers:
        rng = np.random.default_rng([number, version])
        rows = {key: [value] for key, value in (metadata or {"number": number}).items()}
        index.add([f"item {number}"], unit(rng, 1, DIM), unit(rng, 1, 1 + number % 3, DIM), metadata=rows)


def same(path: Path, other: Path) -> None:
    """Compare two galleries by all that can be read and by a search with ties."""
    one, two = TGDTIndex.open(path), TGDTIndex.open(other)
    assert one.verify() == two.verify() == []
    names = sorted(one)
    assert names == sorted(two)
    for a, b in zip(one.get(names), two.get(names), strict=True):
        for own, found in zip(a, b, strict=True):
            np.testing.assert_array_equal(own, found)
    rng = np.random.default_rng(0)
    query = unit(rng, 3, DIM), unit(rng, 3, 2, DIM)
    a, b = (index.search(*query, top_k=50) for index in (one, two))
    assert a.ids == b.ids and a.metadata == b.metadata


@pytest.mark.parametrize(("size", "options"), [(2, {}), (4, {"global_dim": 5})])
def test_a_group_fills_a_gallery_like_one_process(tmp_path: Path, size: int, options: dict[str, Any]) -> None:
    alone, together = create(tmp_path / "alone", **options), create(tmp_path / "together", **options)
    with TGDTIndex.open(alone) as index:
        add(index, range(3))
        add(index, range(11), version=1)
    with TGDTIndex.open(together) as index:
        add(index, range(3))

    def fill(group: ThreadGroup) -> int:
        index = TGDTIndex.open(together)
        with index.filled_by(group):
            add(index, range(group.rank, 11, size), version=1)
            assert len(index) == len(TGDTIndex.open(together)) == 3  # nothing is visible before all have finished
            assert json.loads((together / "manifest.json").read_text())["commit"] == 3
        return len(index)

    assert in_processes(size, fill) == [11] * size
    assert json.loads((together / "manifest.json").read_text())["commit"] == 4  # one commit
    assert not list(together.glob("part-*"))
    same(alone, together)
    with TGDTIndex.open(together) as index:  # and it goes on as any other
        add(index, range(30, 33))
        index.delete(["item 4"])
        index.compact()
        assert index.verify() == [] and len(index) == 13


def test_other_writers_wait_until_the_last_process_of_a_group_has_left(tmp_path: Path) -> None:
    path = create(tmp_path / "gallery")

    def fill(group: ThreadGroup) -> None:
        index = TGDTIndex.open(path)
        with index.filled_by(group):
            with pytest.raises(GalleryBusyError):
                add(TGDTIndex.open(path), range(1))
            with pytest.raises(RuntimeError, match="while a group"):
                index.compact()
            group.gather(None)

    assert in_processes(2, fill) == [None, None]
    add(TGDTIndex.open(path), range(1))


def test_a_busy_gallery_refuses_every_process_of_a_group(tmp_path: Path) -> None:
    writer = TGDTIndex.open(create(tmp_path / "gallery"))
    add(writer, range(1))

    def fill(group: ThreadGroup) -> None:
        with TGDTIndex.open(writer.path).filled_by(group):
            pass

    assert [type(error) for error in in_processes(2, fill)] == [GalleryBusyError] * 2
    writer.close()
    assert in_processes(2, fill) == [None, None]


def test_the_next_writer_adopts_what_a_dead_group_had_finished(tmp_path: Path) -> None:
    path = create(tmp_path / "gallery")

    def die(group: ThreadGroup) -> None:
        index = TGDTIndex.open(path)
        with index.filled_by(group):
            add(index, range(group.rank, 8, 2))
            raise KeyError("killed")

    in_processes(2, die)
    (path / "part-0123456789ab.tmp").write_text("half a list")  # killed while it was replaced
    (path / "segment-0123456789ab").mkdir()  # killed before its first list
    assert len(TGDTIndex.open(path)) == 0
    with TGDTIndex.open(path) as index:
        add(index, range(8, 9))
        assert len(index) == 9 and index.verify() == []
    assert not list(path.glob("part-*")) and not (path / "segment-0123456789ab").exists()


def test_parts_that_were_committed_are_not_adopted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create(tmp_path / "gallery")

    def fill(group: ThreadGroup) -> None:
        index = TGDTIndex.open(path)
        with index.filled_by(group):
            add(index, range(group.rank, 4, 2))

    from modeling_tgdt.gallery.files import GalleryFiles

    with monkeypatch.context() as patch:
        patch.setattr(GalleryFiles, "_remove_orphans", lambda self: None)  # killed between the commit and the tidying
        in_processes(2, fill)
    assert len(list(path.glob("part-*.json"))) == 2
    with TGDTIndex.open(path) as index:
        index.delete(["item 0"])
        assert sorted(index) == ["item 1", "item 2", "item 3"] and index.verify() == []


def test_metadata_that_does_not_fit_is_refused_and_the_rest_kept(tmp_path: Path) -> None:
    path = create(tmp_path / "gallery")

    def fill(group: ThreadGroup) -> None:
        index = TGDTIndex.open(path)
        with index.filled_by(group):
            add(index, range(group.rank, 4, 2), year=2024 if group.rank else "long ago")

    assert [type(error) for error in in_processes(2, fill)] == [TypeError] * 2
    with TGDTIndex.open(path) as index:
        assert len(index) == 2 and index.verify() == []
        add(index, range(9, 10), place="here")


def test_a_list_of_segments_that_nobody_wrote_is_named(tmp_path: Path) -> None:
    path = create(tmp_path / "gallery")
    storage.replace_json(path / "part-0123456789ab.json", {"segments": [{"nom": "x"}]})
    with pytest.raises(ValueError, match="part-0123456789ab"):
        add(TGDTIndex.open(path), range(1))


def test_processes_write_into_a_qdrant_server_and_not_into_an_embedded_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    with qdrant_server() as (url, _):
        named = {"url": url}
        TGDTIndex.create(tmp_path / "server", dim=DIM, engine="qdrant", engine_options=named).close()

        def fill(group: ThreadGroup) -> int:
            index = TGDTIndex.open(tmp_path / "server", engine_options=named)
            with index.filled_by(group):
                add(index, range(group.rank, 5, 2))
            return len(index)

        assert in_processes(2, fill) == [5, 5]
    with TGDTIndex.create(
        tmp_path / "local", dim=DIM, engine="qdrant", engine_options={"embedded": "local"}
    ) as embedded:
        assert isinstance(embedded._backend, QdrantBackend)
        found = in_processes(1, lambda group: embedded.filled_by(group).__enter__())
        assert isinstance(found[0], ValueError) and "embedded" in str(found[0])
