# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Forged files of a gallery embedded in Qdrant Edge: used or refused, in a process that may die."""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.in_a_child import OUT_OF_TIME, REFUSED, USED, in_a_child
from tests.modeling_tgdt.gallery.forgery import every_file, seal, small_gallery, use
from tests.test_fuzzing import FUZZ, REFUSALS, damage, watch

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the engine is tried in a forked process")

HEAD = 4096
ABORTED = -signal.SIGABRT  # what Rust does where a forged size asks for more memory than there is; see SECURITY.md


def copy_data(source: Path, target: Path) -> None:
    """Copy a directory without the holes of its files, which are hundreds of megabytes of nothing."""
    for name in every_file(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with open(source / name, "rb") as old, open(target / name, "wb") as new:
            size, place = os.fstat(old.fileno()).st_size, 0
            with contextlib.suppress(OSError):  # no data after `place`
                while place < size:
                    start = os.lseek(old.fileno(), place, os.SEEK_DATA)
                    place = os.lseek(old.fileno(), start, os.SEEK_HOLE)
                    os.pwrite(new.fileno(), os.pread(old.fileno(), place - start, start), start)
            new.truncate(size)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edge") / "gallery"
    options = {"engine": "qdrant", "engine_options": {"embedded": "edge"}}
    assert in_a_child(lambda: small_gallery(path, **options)) == USED  # this process must never start the engine
    return path


@settings(FUZZ, max_examples=max(1, FUZZ.max_examples // 3))
@given(data=st.data())
def test_forged_files_are_used_or_refused(gallery: Path, data: st.DataObject) -> None:
    """Every file of it, or a link in its place. A forged count may make the engine count for long, or abort."""
    with tempfile.TemporaryDirectory() as folder:
        forged, outside = Path(folder, "inner", "gallery"), Path(folder, "outside")
        copy_data(gallery, forged)
        outside.write_bytes(b"outside" * 99)
        path = forged / data.draw(st.sampled_from(sorted(every_file(gallery))))
        if data.draw(st.sampled_from(["bytes"] * 7 + ["link"])) == "link":
            path.unlink()
            path.symlink_to(outside)
        else:
            with path.open("r+b") as file:
                changed = data.draw(damage(file.read(HEAD)))
                file.seek(0)
                file.write(changed)
                if data.draw(st.booleans()):
                    file.truncate()
        with contextlib.suppress(*REFUSALS):
            seal(forged)

        def find() -> None:
            with watch():
                use(forged)

        assert in_a_child(find) in (USED, REFUSED, OUT_OF_TIME, ABORTED), path
        assert outside.read_bytes() == b"outside" * 99
        assert sorted(found.name for found in Path(folder).iterdir()) == ["inner", "outside"]
        assert [found.name for found in forged.parent.iterdir()] == ["gallery"]


def refused_in_words(gallery: Path, message: str) -> None:
    """Use a gallery whose files were forged, and remove it."""

    def find() -> None:
        with pytest.raises(ValueError, match=message):
            use(gallery)

    assert in_a_child(find) == USED
    shutil.rmtree(gallery)


def test_a_panic_of_the_engine_is_an_error_in_words(gallery: Path, tmp_path: Path) -> None:
    copy_data(gallery, tmp_path / "gallery")
    (status,) = tmp_path.rglob("vector_storage-global/vectors/status.dat")
    status.write_bytes(b"")
    refused_in_words(tmp_path / "gallery", "The Qdrant shard at .* cannot be used")


def test_a_point_that_lost_its_embedding_is_an_error_in_words(gallery: Path, tmp_path: Path) -> None:
    """Its flag of deletion, forged, hides the vector from the engine and leaves the point."""
    copy_data(gallery, tmp_path / "gallery")
    (flags,) = tmp_path.rglob("vector_storage-global/deleted/flags_a.dat")
    with flags.open("r+b") as file:
        file.write(b"content-type")
    seal(tmp_path / "gallery")
    refused_in_words(tmp_path / "gallery", "Expected 'global' in every point of the Qdrant collection")


def test_a_point_under_the_id_of_no_item_is_an_error_in_words(gallery: Path, tmp_path: Path) -> None:
    """Its item would be listed, and not be there when it is asked for."""
    copy_data(gallery, tmp_path / "gallery")
    (ids,) = tmp_path.rglob("mutable_id_tracker.mappings")
    with ids.open("r+b") as file:
        for record in range(6):  # a byte each, the UUID (16), the number of the point (4)
            file.seek(21 * record + 2)
            other = file.read(1)[0] ^ 15
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([other]))
    seal(tmp_path / "gallery")
    refused_in_words(tmp_path / "gallery", "under the id of its point|'id' in every point")
