# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery follows its folder: equal to one that is built anew, at the cost of what changed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from modeling_tgdt.retriever.syncing import RECORD, sync_folder
from tests.modeling_tgdt.retriever.test_sharing import launch  # noqa: F401
from tests.tiny_retrieval import CAPTIONS, picture_folder, random_picture, tiny_retriever

OPTIONS: dict[str, Any] = {"on_error": "skip", "progress": False}


class Followed:
    """A folder, its gallery, and how many pictures were embedded since the last look."""

    def __init__(self, root: Path, retriever: TGDTRetriever, **options: Any) -> None:
        self.folder, self.record = picture_folder(root / "pictures", 7), root / RECORD
        self.retriever, self.embedded = retriever, 0
        retriever.create_index(root / "gallery", **options)
        encode = retriever.encode_images
        retriever.encode_images = lambda images, *rest: self._count(images) or encode(images, *rest)  # type: ignore

    def _count(self, images: list[Any]) -> None:
        self.embedded += len(images)

    def sync(self, **options: Any) -> tuple[int, ...]:
        """Return new, changed, renamed, deleted, unchanged, skipped, embedded."""
        self.embedded = 0
        found = sync_folder(self.retriever, self.folder, self.record, **OPTIONS, **options)
        counts = found.new, found.changed, found.renamed, found.deleted, found.unchanged
        return *counts, len(found.embedded.skipped), self.embedded

    def check(self) -> None:
        """Compare with a gallery that is built anew."""
        other = TGDTRetriever(self.retriever.model, self.retriever.processor)
        settings = self.retriever.index.settings
        other.create_index(token_dtype=settings["token_dtype"], pool_factor=settings["pool_factor"])
        other.add_images(self.folder, **OPTIONS)
        names = sorted(other.index)
        assert sorted(self.retriever.index) == names and self.retriever.index.verify() == []
        for one, two in zip(self.retriever.index.get(names), other.index.get(names), strict=True):
            for own, found in zip(one, two, strict=True):
                np.testing.assert_allclose(own, found, atol=2e-2 if settings["token_dtype"] == "int8" else 1e-3)
        for one, two in zip(self.retriever.search(CAPTIONS), other.search(CAPTIONS), strict=True):
            assert [hit.id for hit in one] == [hit.id for hit in two]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    yield Followed(tmp_path, tiny_retriever())


def test_a_gallery_follows_its_folder(followed: Followed) -> None:
    folder = followed.folder
    assert followed.sync() == (7, 0, 0, 0, 0, 0, 7)
    assert followed.sync() == (0, 0, 0, 0, 7, 0, 0)
    random_picture(70).save(folder / "new.png")
    random_picture(71).save(folder / "000.png")
    (folder / "sub" / "001.png").unlink()
    (folder / "002.png").rename(folder / "sub" / "renamed.png")
    (folder / "bad.png").write_bytes(b"no picture")
    os.utime(folder / "004.png", (1, 1))
    assert followed.sync() == (2, 1, 1, 1, 4, 1, 2)
    followed.check()
    assert followed.sync()[:6] == (1, 0, 0, 0, 7, 1)  # what cannot be read is tried again


def test_names_that_change_places_and_copies_are_not_embedded_again(followed: Followed) -> None:
    folder = followed.folder
    followed.sync()
    (folder / "000.png").rename(folder / "moved")
    (folder / "002.png").rename(folder / "000.png")
    (folder / "moved").rename(folder / "002.png")
    (folder / "copy.png").write_bytes((folder / "004.png").read_bytes())
    assert followed.sync() == (1, 2, 0, 0, 5, 0, 0)
    followed.check()


def test_a_picture_that_became_unreadable_is_no_longer_found(followed: Followed) -> None:
    followed.sync()
    (followed.folder / "000.png").write_bytes(b"cut off")
    assert followed.sync() == (0, 1, 0, 0, 6, 1, 0)
    followed.check()


def test_pooled_and_scaled_tokens_keep_their_bits_under_a_new_name(tmp_path: Path) -> None:
    followed = Followed(tmp_path, tiny_retriever(), token_dtype="int8", pool_factor=2)
    followed.sync(metadata=lambda name: {"first": name})
    vectors, tokens = followed.retriever.index.get(["000.png"])
    (followed.folder / "000.png").rename(followed.folder / "other.png")
    assert followed.sync() == (0, 0, 1, 0, 6, 0, 0)
    found, others = followed.retriever.index.get(["other.png"])
    np.testing.assert_array_equal(found, vectors)
    np.testing.assert_array_equal(others[0], tokens[0])
    (hit,) = followed.retriever.search("sea", where={"ids": ["other.png"]})
    assert hit.metadata == {"first": "000.png"}
    followed.check()


def test_an_interrupted_run_goes_on_where_it_was(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, retriever = followed.folder, followed.retriever

    def add_some(images: list[Any], ids: list[str], *arguments: Any, **options: Any) -> None:
        TGDTRetriever.add_images(retriever, images[:3], ids[:3], *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retriever, "add_images", add_some)
        with pytest.raises(KeyboardInterrupt):
            followed.sync()
    assert followed.sync() == (4, 0, 0, 0, 3, 0, 4)
    random_picture(70).save(folder / "new.png")
    for number in (0, 2, 4):
        random_picture(71 + number).save(folder / f"00{number}.png")
    with monkeypatch.context() as patch:
        patch.setattr(retriever, "add_images", add_some)
        with pytest.raises(KeyboardInterrupt):
            followed.sync()
    assert followed.sync()[:2] == (1, 3)  # a changed picture is embedded until a run has ended
    followed.check()


def test_processes_follow_a_folder_together(tmp_path: Path, launch: Any) -> None:  # noqa: F811
    folder = picture_folder(tmp_path / "pictures", 5)

    def follow(retriever: TGDTRetriever, group: Any) -> list[Any]:
        retriever.create_index(tmp_path / "gallery", exist_ok=True)
        reports = [sync_folder(retriever, folder, tmp_path / RECORD, **OPTIONS, batch_size=1)]
        if group.rank == 0:
            (folder / "000.png").rename(folder / "renamed.png")
        group.gather(None)
        return [*reports, sync_folder(retriever, folder, tmp_path / RECORD, **OPTIONS), len(retriever.index)]

    first, second = launch(follow)
    assert first == second and first[2] == 5
    assert (first[0].new, first[1].renamed, first[1].unchanged) == (5, 1, 4)


def test_a_damaged_record_is_named(followed: Followed) -> None:
    followed.record.write_bytes(b"no table")
    with pytest.raises(ValueError, match=RECORD):
        followed.sync()
