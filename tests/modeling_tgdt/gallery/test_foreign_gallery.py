# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A stranger's gallery may use memory, and nothing else: no code, no connection, no file outside it."""

import os
import pickle
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from modeling_tgdt.gallery import own_files
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.directory import _gallery_files, copy_gallery
from tests.download_cache import as_download_cache
from tests.modeling_tgdt.gallery.forgery import (
    DIM,
    every_file,
    forge,
    manifest_of,
    seal,
    segment_of,
    small_gallery,
    use,
    write_rows,
)

SECRET = b"what only its owner may read or change " * 100
FAISS = {"engine": "faiss", "engine_options": {"min_rows": 1, "factory": "HNSW8"}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGDT_GALLERY_KEY", "the finder's")


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return small_gallery(tmp_path / "inner" / "g")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("options", [{"embedded": "local"}, {}], ids=["local", "unsaid"])
def test_an_emulated_store_is_opened_only_for_its_owner(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """qdrant-client reads `storage.sqlite` with pickle."""
    connection = pytest.importorskip("modeling_tgdt.gallery.qdrant.connection")
    path = small_gallery(tmp_path / "g", engine="qdrant", engine_options={"embedded": "local"})
    (store,) = path.glob("qdrant/collection/*/storage.sqlite")
    with sqlite3.connect(store) as database:
        database.execute("update points set point = ?", (sqlite3.Binary(pickle.dumps(Runs(tmp_path / "ran"))),))
    database.close()
    content = manifest_of(path)
    content["settings"]["engine_options"] = options
    forge(path, content)
    monkeypatch.setattr(connection, "edge", None)  # without Qdrant Edge, "local" is what is left
    with pytest.raises(ValueError, match="files can run code when they are read.*--engine-option embedded=local"):
        TGDTIndex.open(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception):  # noqa: B017  # whoever says that it is his
        len(TGDTIndex.open(path, engine_options={"embedded": "local"}))
    assert (tmp_path / "ran").exists()


def test_a_manifest_names_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client")
    monkeypatch.delenv("QDRANT_URL", raising=False)
    monkeypatch.setenv("QDRANT_API_KEY", "the user's key")
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda own, address: asked.append(address))
    path = small_gallery(tmp_path / "g", engine="qdrant", engine_options={"embedded": "local"})
    content = manifest_of(path)
    content["settings"]["engine_options"] = {"url": "http://stranger.example"}
    forge(path, content)
    with pytest.raises(ValueError, match="names 'http://stranger.example', which is not taken on trust.*QDRANT_URL"):
        TGDTIndex.open(path)
    for url, why in (
        ("http://10.0.0.1:6333", "QDRANT_API_KEY would go to 'http://10.0.0.1:6333' in clear"),
        ("http://localhost.example.com", "in clear"),
        ("https://me:word@node", "without a name or password"),
        ("file:///etc", "must look like https://"),
    ):
        with pytest.raises(ValueError, match=why):
            TGDTIndex.open(path, engine_options={"url": url})
    content["settings"]["engine_options"] |= {"collection": "../../x"}
    forge(path, content)
    with pytest.raises(ValueError, match="'collection'] must be letters"):
        TGDTIndex.open(path, engine_options={"url": "https://node"})
    assert asked == []


def test_an_embedded_store_has_no_links(tmp_path: Path, secret: Path) -> None:
    pytest.importorskip("qdrant_edge")
    path = small_gallery(tmp_path / "g", engine="qdrant", engine_options={"embedded": "edge"})
    (path / "qdrant-edge" / "more").symlink_to(secret)
    with pytest.raises(ValueError, match="more.*not a regular file"):
        TGDTIndex.open(path)
    with pytest.raises(ValueError, match="more.*not a regular file"):
        copy_gallery(path, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_files_of_a_gallery_are_regular_files(gallery: Path, secret: Path, tmp_path: Path, kind: str) -> None:
    """Each file of it in turn leads to another file, is a folder, or a pipe that would never end."""
    names = [*every_file(gallery), "manifest.tmp"]
    assert len(names) == 11
    for name in names:
        shutil.copytree(gallery, tmp_path / "other")
        path = tmp_path / "other" / name
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(secret)
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        if (kind, name) in (("link", "manifest.tmp"), ("pipe", "manifest.tmp")):
            use(tmp_path / "other")  # what is in the way of a new file is removed, not written to
        else:
            with pytest.raises((ValueError, OSError)):
                use(tmp_path / "other")
        assert secret.read_bytes() == SECRET, name
        shutil.rmtree(tmp_path / "other")


def test_a_segment_is_no_link(gallery: Path, tmp_path: Path) -> None:
    segment = segment_of(gallery)
    segment.rename(tmp_path / "theirs")
    segment.symlink_to(tmp_path / "theirs")
    before = {name: (tmp_path / "theirs" / name).read_bytes() for name in every_file(tmp_path / "theirs")}
    with pytest.raises(ValueError, match="not a regular file"):
        TGDTIndex.open(gallery)
    assert {name: (tmp_path / "theirs" / name).read_bytes() for name in before} == before


def test_links_of_the_download_cache_stay_in_it(gallery: Path, secret: Path, tmp_path: Path) -> None:
    snapshot = as_download_cache(gallery, tmp_path / "cache")
    assert len(TGDTIndex.open(snapshot)) == 5
    tokens = segment_of(snapshot) / "tokens"
    tokens.unlink()
    tokens.symlink_to(secret)
    with pytest.raises(ValueError, match="not a regular file"):
        TGDTIndex.open(snapshot)


def test_only_what_the_manifest_names_is_copied_and_pushed(gallery: Path, secret: Path, tmp_path: Path) -> None:
    (segment_of(gallery) / "notes.bin").symlink_to(secret)
    (gallery / "segment-0123456789ab").mkdir()
    (gallery / "segment-0123456789ab" / "tokens").write_bytes(SECRET)
    (gallery / "qdrant").mkdir()
    (gallery / "qdrant" / "x").symlink_to(secret)
    copy_gallery(gallery, tmp_path / "copy")
    assert sorted(_gallery_files(gallery)) == sorted(every_file(tmp_path / "copy"))
    assert not any("notes" in name or "0123" in name or "qdrant" in name for name in every_file(tmp_path / "copy"))
    assert TGDTIndex.open(tmp_path / "copy").verify() == []


def _empty_lengths(content: dict[str, Any]) -> None:
    for entry in content["segments"][0]["files"].values():
        entry[:] = [0, 0]


def _twice(content: dict[str, Any]) -> None:
    content["segments"] *= 2


def _other_dtype(content: dict[str, Any]) -> None:
    content["settings"]["token_dtype"] = "float32"


def _more_files(content: dict[str, Any]) -> None:
    content["segments"][0]["files"]["notes.bin"] = [0, 0]


def _other_dim(content: dict[str, Any]) -> None:
    content["settings"]["dim"] = 2


def _odd_deletions(content: dict[str, Any]) -> None:
    (entry,) = content["deleted"].values()
    entry[0] -= 1


@pytest.mark.parametrize("change", [_empty_lengths, _twice, _other_dtype, _more_files, _other_dim, _odd_deletions])
def test_lengths_follow_from_rows_and_tokens(gallery: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A committed length of 0 let `add` cut files that were mapped: the next read was a bus error."""
    content = manifest_of(gallery)
    change(content)
    forge(gallery, content)
    with pytest.raises(ValueError, match="not a manifest that tgdt wrote|is damaged"):
        TGDTIndex.open(gallery)


IDS = pa.array(list("abcdef"))


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"id": [str(number) for number in range(10)]}),
        pa.table({"id": list(range(6))}),
        pa.table({"id": ["a", None, "c", "d", "e", "f"]}),
        pa.table({"id": ["a"] * 6}),
        pa.table({"id": IDS.dictionary_encode()}),
        pa.table({"name": IDS}),
        pa.table([IDS, IDS], names=["id", "id"]),
        pa.table({"id": IDS, "meta:year": pa.array([{"a": 1}] * 6)}),
        pa.table({"id": IDS, "meta:year": pa.array([b"\xff"] * 6)}),
    ],
    ids=["more rows", "int64", "null", "equal", "dictionary", "no column", "two columns", "nested", "bytes"],
)
def test_rows_of_another_form_are_refused_by_name(gallery: Path, table: Any) -> None:
    write_rows(gallery, table)
    with pytest.raises(ValueError, match="rows.arrow"):
        index = TGDTIndex.open(gallery)
        index.search(np.ones((1, DIM)), np.ones((1, 1, DIM)))
        _ = "a" in index


@pytest.fixture
def approximate(tmp_path: Path) -> Path:
    pytest.importorskip("faiss")
    return small_gallery(tmp_path / "approximate", **FAISS)


def forged_index(rows: np.ndarray, lists_at: Path | None) -> bytes:
    """Return the file of an index; FAISS opens the lists that it names for writing."""
    import faiss

    factory = "HNSW8" if lists_at is None else "IVF1,Flat"
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    if lists_at is not None:
        lists = faiss.OnDiskInvertedLists(1, index.code_size, str(lists_at))
        index.replace_invlists(lists)
    index.add(rows)
    return bytes(faiss.serialize_index(index).data)


@pytest.mark.parametrize("forgery", ["rows", "dimension", "lists"])
def test_a_foreign_faiss_file_is_not_read(
    approximate: Path, tmp_path: Path, forgery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, DIM + (forgery == "dimension"))).astype(np.float32)
    data = forged_index(rows, tmp_path / "secret" if forgery == "lists" else None)
    next(approximate.glob("engine-*")).write_bytes(data + bytes(32))
    seal(approximate)
    (tmp_path / "secret").write_bytes(SECRET)
    query = rng.normal(size=(3, DIM))
    exact = TGDTIndex.open(small_gallery(tmp_path / "exact")).search(query, mode="global").ids
    with monkeypatch.context() as patched:
        patched.delattr(faiss, "read_index")
        assert TGDTIndex.open(approximate).search(query, mode="global").ids == exact
    assert (tmp_path / "secret").read_bytes() == SECRET


def test_ones_own_faiss_file_is_read_and_fits(approximate: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import faiss

    read: list[Any] = []
    original = faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda reader: read.append(original(reader)) or read[-1])
    query = np.ones((1, DIM))
    expected = TGDTIndex.open(approximate).search(query, mode="global").ids
    assert read[0].ntotal == 5
    larger = small_gallery(tmp_path / "larger", **FAISS)
    with TGDTIndex.open(larger) as index:
        index.add([str(n) for n in range(50)], np.ones((50, DIM)), np.ones((50, 1, DIM)))
        index.compact()
    next(approximate.glob("engine-*")).write_bytes(
        next(larger.glob("engine-*")).read_bytes()
    )  # one's own, but another
    seal(approximate)
    assert TGDTIndex.open(approximate).search(query, mode="global").ids == expected
    monkeypatch.setenv("TGDT_GALLERY_KEY", "another user's")
    read.clear()
    assert TGDTIndex.open(larger).search(query, mode="global").ids[0] and read == []


def test_the_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGDT_GALLERY_KEY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = own_files._key()
    own_files._stored_key.cache_clear()
    assert own_files._key() == first and len(first) == 32
    assert (tmp_path / "tgdt" / "gallery.key").stat().st_mode & 0o777 == 0o600
    own_files._stored_key.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(own_files._key()) == 32  # of this process alone


@pytest.mark.parametrize("options", [{"speed": 1}, {"min_rows": "1"}, {"oversample": 0}, {"factory": 7}])
def test_engine_options_of_a_manifest_are_checked(approximate: Path, options: dict[str, Any]) -> None:
    content = manifest_of(approximate)
    content["settings"]["engine_options"] = options
    forge(approximate, content)
    with pytest.raises(ValueError, match=r"Engine option|not a manifest that tgdt wrote"):
        TGDTIndex.open(approximate)


@pytest.mark.parametrize("value", [b"\xff", {"a": 1}, [[b"x"]]], ids=["bytes", "nested", "bytes in lists"])
def test_metadata_without_a_form_in_json_is_refused(tmp_path: Path, value: Any) -> None:
    with (
        TGDTIndex.create(tmp_path / "g", dim=DIM) as index,
        pytest.raises(TypeError, match="Expected strings, numbers.*found metadata 'key' of type"),
    ):
        index.add(["a"], np.ones((1, DIM)), np.ones((1, 1, DIM)), metadata=[{"key": value}])


@pytest.mark.parametrize("value", [99999999999999999999, 1e300, -1e300])
def test_numbers_beyond_a_type_match_nothing_or_are_refused(tmp_path: Path, value: float) -> None:
    import datetime

    with TGDTIndex.create(tmp_path / "g", dim=DIM) as index:
        values = {"time": [datetime.datetime(2024, 1, 1)], "number": [1]}
        index.add(["a"], np.ones((1, DIM)), np.ones((1, 1, DIM)), metadata=values)
        assert index.search(np.ones((1, DIM)), mode="global", where={"number": value}).ids == [[]]
        with pytest.raises(TypeError, match="does not fit the column's type"):
            index.search(np.ones((1, DIM)), mode="global", where={"time": value})
