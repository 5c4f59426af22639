"""What happens to a gallery when things go wrong: kills, damage, two writers, a full or read-only disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import modeling_tgdt.gallery.storage as storage_module
from benchmarks.crash import kill_writers
from modeling_tgdt.index_tgdt import TGDTIndex
from tests.download_cache import as_download_cache
from tests.modeling_tgdt.gallery.index_twin import unit

DIM = 8


def fill(path: Path, batches: int = 3, **options) -> TGDTIndex:
    index = TGDTIndex.create(path, dim=DIM, segment_rows=8, token_dtype="int8", **options)
    for batch in range(batches):
        add(index, batch)
    return index


def add(index: TGDTIndex, batch: int, items: int = 10) -> None:
    rng = np.random.default_rng(batch)
    names = [f"{batch}-{i}" for i in range(items)]
    index.add(names, unit(rng, items, DIM), unit(rng, items, 3, DIM), metadata={"batch": [batch] * items})


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_kill_nine_loses_nothing_committed(tmp_path, engine) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss")
    kills = int(os.environ.get("TGDT_KILLS", "15"))
    steps, hit = kill_writers(tmp_path / "g", kills, engine=engine)
    assert steps > 0 and sum(hit.values()) == kills


def test_every_flipped_byte_is_found_and_its_segment_named(tmp_path) -> None:
    index = fill(tmp_path / "g")
    index.delete(["0-1"])
    index.close()
    files = sorted(path for path in (tmp_path / "g").rglob("*") if path.is_file() and path.suffix not in (".lock",))
    assert len(files) > 20
    rng = np.random.default_rng(0)
    for path in files:
        sound = path.read_bytes()
        place = int(rng.integers(len(sound)))
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :])
        if path.name == "manifest.json":
            with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
                index.verify()
        else:
            assert any(path.name in problem for problem in index.verify())
            name = path.parent.name if path.parent.name.startswith("segment") else path.name
            assert any(name in problem for problem in index.verify())
        path.write_bytes(sound)
    assert index.verify() == []


@pytest.mark.parametrize("name", ["offsets.i64", "tokens", "rows.arrow", "globals.f32"])
def test_a_shortened_file_is_refused_by_name(tmp_path, name) -> None:
    fill(tmp_path / "g").close()
    path = next((tmp_path / "g").glob(f"segment-*/{name}"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path.parent.name}.*{name} is shorter"):
        TGDTIndex.open(tmp_path / "g")


def test_the_second_writer_is_refused_and_readers_go_on(tmp_path) -> None:
    first = fill(tmp_path / "g")
    second = TGDTIndex.open(tmp_path / "g")
    with pytest.raises(RuntimeError, match=f"Another writer \\(process {os.getpid()}\\).*close"):
        add(second, 9)
    query = unit(np.random.default_rng(0), 1, DIM)
    assert len(second.search(query, mode="global").ids[0]) == 10
    add(first, 3)
    first.close()
    add(second, 9)  # sees the first writer's commit before its own
    assert len(second) == 50 and "3-0" in second


def test_a_stale_index_deletes_the_right_rows(tmp_path) -> None:
    first = fill(tmp_path / "g")
    second = TGDTIndex.open(tmp_path / "g")
    assert "1-5" in second
    first.delete([f"0-{i}" for i in range(10)])
    first.compact()
    add(first, 5)
    first.close()
    assert second.delete(["1-5", "5-0"]) == 2
    assert sorted(second) == sorted(f"{b}-{i}" for b in (1, 2, 5) for i in range(10) if (b, i) not in {(1, 5), (5, 0)})


def test_a_dead_writers_lock_is_recovered(tmp_path) -> None:
    fill(tmp_path / "g").close()
    code = (
        "import os, numpy as np; from modeling_tgdt.index_tgdt import TGDTIndex; "
        f"index = TGDTIndex.open({str(tmp_path / 'g')!r}); index.delete(['0-0']); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    index = TGDTIndex.open(tmp_path / "g")
    assert "0-0" not in index
    add(index, 9)
    assert len(index) == 39


def test_a_reader_keeps_its_commit_while_a_writer_works(tmp_path) -> None:
    writer = fill(tmp_path / "g")
    reader = TGDTIndex.open(tmp_path / "g")
    query, tokens = unit(np.random.default_rng(0), 1, DIM), unit(np.random.default_rng(1), 1, 2, DIM)
    before = reader.search(query, tokens, top_k=99)
    writer.delete([f"0-{i}" for i in range(10)])
    add(writer, 7)
    writer.compact()
    writer.compact()
    writer.close()
    other = TGDTIndex.open(tmp_path / "g")
    other.delete(["7-0"])  # removes the files of the earlier compactions
    after = reader.search(query, tokens, top_k=99)
    assert before.ids == after.ids and before.metadata == after.metadata
    np.testing.assert_array_equal(before.scores, after.scores)
    assert reader.refresh() and not reader.refresh()
    assert "0-0" not in reader and "7-1" in reader and len(reader) == 29


def test_readers_open_while_a_writer_compacts(tmp_path) -> None:
    writer, failures = fill(tmp_path / "g"), []
    stop = threading.Event()

    def read() -> None:
        query = unit(np.random.default_rng(0), 1, DIM)
        while not stop.is_set():
            try:
                found = TGDTIndex.open(tmp_path / "g").search(query, mode="global", top_k=99)
                assert len(found.ids[0]) == 30
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(15):
        writer.compact()
    stop.set()
    thread.join()
    assert failures == []


def fail_after(monkeypatch, allowed: int, code: int) -> None:
    """Let `allowed` bytes of appended data through, then fail as a disk does."""
    real, left = storage_module.zlib.crc32, [allowed]

    class Disk:
        @staticmethod
        def crc32(raw, crc=0):
            if isinstance(raw, memoryview):
                left[0] -= raw.nbytes
                if left[0] < 0:
                    raise OSError(code, os.strerror(code))
            return real(raw, crc)

    monkeypatch.setattr(storage_module, "zlib", Disk)


@pytest.mark.parametrize("allowed", [0, 100, 700, 1500])
def test_a_failing_disk_leaves_the_last_commit(tmp_path, monkeypatch, allowed) -> None:
    index = fill(tmp_path / "g")
    sizes = {path: path.stat().st_size for path in (tmp_path / "g").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        fail_after(patch, allowed, errno.ENOSPC)
        with pytest.raises(OSError, match="No space left on device. The gallery keeps its last committed state"):
            add(index, 8)
    assert sizes == {path: path.stat().st_size for path in (tmp_path / "g").rglob("*") if path.is_file()}
    assert len(index) == 30 and index.verify() == []
    add(index, 8)
    assert len(TGDTIndex.open(tmp_path / "g")) == 40


def test_a_full_disk(tmp_path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        index, batch = fill(tmp_path / "g"), 3
        with pytest.raises(OSError, match="No space left") as caught:
            while batch < 10_000:
                add(index, batch, items=200)
                batch += 1
        assert caught.value.errno == errno.ENOSPC
        count = len(index)
        assert count == 30 + 200 * (batch - 3) and index.verify() == []
        with pytest.raises(OSError, match="No space left"):
            index.compact()
        index.close()
        again = TGDTIndex.open(tmp_path / "g")
        assert len(again) == count and again.verify() == []
        again.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_read_only_directory_can_be_searched_but_not_written(tmp_path) -> None:
    fill(tmp_path / "g").close()
    mounted = subprocess.run(["mount", "--bind", str(tmp_path / "g"), str(tmp_path / "g")], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "g")], check=True, capture_output=True)
        index = TGDTIndex.open(tmp_path / "g")
        assert len(index.search(unit(np.random.default_rng(0), 1, DIM), mode="global").ids[0]) == 10
        with pytest.raises(OSError, match="could not add to .*Read-only file system.*keeps its last committed state"):
            add(index, 8)
        with pytest.raises(OSError, match="could not create a gallery in"):
            TGDTIndex.create(tmp_path / "g" / "inner", dim=DIM)
        assert len(index) == 30
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "g")], check=True)


def test_a_download_cache_of_links_is_not_written(tmp_path) -> None:
    fill(tmp_path / "g").close()
    index = TGDTIndex.open(as_download_cache(tmp_path / "g", tmp_path / "cache"))
    assert len(index) == 30
    with pytest.raises(OSError, match="copy the gallery before writing"):
        index.delete(["0-0"])
