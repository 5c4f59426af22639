# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Processes of a launch that fill one gallery through their retrievers; the launch itself: tests/trainer/commands."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_tgdt import TGDTIndex, retrieval_tgdt
from modeling_tgdt.gallery.storage import GalleryBusyError
from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from modeling_tgdt.retriever import syncing
from tests.process_threads import ThreadGroup, in_processes
from tests.tiny_retrieval import CAPTIONS, picture_folder, tiny_retriever


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a function of a retriever in two processes that share a model."""
    own, model = threading.local(), tiny_retriever()
    for module in (retrieval_tgdt, syncing):
        monkeypatch.setattr(module, "process_group", lambda: getattr(own, "group", None))

    def run(work: Any) -> list[Any]:
        def process(group: ThreadGroup) -> Any:
            own.group = group
            return work(TGDTRetriever(model.model, model.processor), group)

        return in_processes(2, process)

    return run


def test_a_gallery_is_made_when_the_process_that_was_making_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, tried = TGDTIndex.create, []

    def busy_once(path: Path, **settings: Any) -> TGDTIndex:
        tried.append(path)
        if len(tried) == 1:
            raise GalleryBusyError("another process is at work, and dies")
        return create(path, **settings)

    monkeypatch.setattr(TGDTIndex, "create", busy_once)
    assert len(tiny_retriever().create_index(tmp_path / "g", exist_ok=True)) == 0 and len(tried) == 2


def opened(path: Path) -> TGDTRetriever:
    retriever = tiny_retriever()
    return TGDTRetriever(retriever.model, retriever.processor, TGDTIndex.open(path))


def same(one: Path, other: Path) -> None:
    a, b = opened(one), opened(other)
    names = sorted(a.index)
    assert names == sorted(b.index)
    (vectors, tokens), (others, found) = a.index.get(names), b.index.get(names)
    np.testing.assert_allclose(others, vectors, atol=1e-6)
    for own, tokens_of_other in zip(tokens, found, strict=True):
        np.testing.assert_allclose(tokens_of_other, own, atol=1e-3)  # one step of float16
    for first, second in zip(a.search(CAPTIONS, top_k=30), b.search(CAPTIONS, top_k=30), strict=True):
        assert [(hit.id, hit.metadata) for hit in first] == [(hit.id, hit.metadata) for hit in second]


def test_processes_add_what_one_adds_and_report_it(tmp_path: Path, launch: Any) -> None:
    folder = picture_folder(tmp_path / "pictures", 9)
    (folder / "004.png").write_bytes((folder / "002.png").read_bytes())  # two pictures that tie
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    files = sorted(str(path) for path in folder.rglob("*.png"))
    ids = [Path(name).name for name in files]
    options: dict[str, Any] = {"batch_size": 2, "on_error": "skip", "progress": False}

    def fill(retriever: TGDTRetriever, path: Path, **more: Any) -> tuple[Any, Any]:
        retriever.create_index(path, exist_ok=True)
        first = retriever.add_images(files[:5] + files[:1], ids[:5] + ids[:1], **options, **more)
        metadata = [{"place": number} for number in range(len(files))]
        return first, retriever.add_images(files, ids, metadata, resume=True, **options, **more)

    alone = fill(tiny_retriever(), tmp_path / "alone")
    together = launch(lambda retriever, group: fill(retriever, tmp_path / "together"))
    assert together[0] == together[1] and len(opened(tmp_path / "together").index) == 9
    for one, two in zip(alone, together[0], strict=True):
        assert sorted(two.skipped) == sorted(one.skipped)
        assert (two.added, two.unchanged, two.updated) == (one.added, one.unchanged, one.updated)
    assert alone[0].skipped and alone[1].updated == 5
    same(tmp_path / "alone", tmp_path / "together")


def test_a_folder_and_texts_with_running_numbers_are_shared(tmp_path: Path, launch: Any) -> None:
    folder = picture_folder(tmp_path / "pictures", 5)
    (folder / "notes.txt").write_text("no picture")

    def fill(retriever: TGDTRetriever, root: Path) -> list[Any]:
        retriever.create_index(root / "images", exist_ok=True)
        reports = [retriever.add_images(folder, batch_size=1, progress=False)]
        retriever.create_index(root / "texts", "text", exist_ok=True)
        return [*reports, retriever.add_texts(CAPTIONS, batch_size=1, progress=False)]

    alone = fill(tiny_retriever(), tmp_path / "alone")
    assert launch(lambda retriever, group: fill(retriever, tmp_path / "together")) == [alone, alone]
    for name in ("images", "texts"):
        same(tmp_path / "alone" / name, tmp_path / "together" / name)


def test_galleries_of_each_process_are_filled_apart(tmp_path: Path, launch: Any) -> None:
    folder = picture_folder(tmp_path / "pictures", 3)

    def fill(retriever: TGDTRetriever, group: ThreadGroup) -> list[int]:
        retriever.add_images(folder, progress=False)  # into a temporary gallery
        alone = [len(retriever.index)]
        retriever.create_index(tmp_path / f"of {group.rank}")
        retriever.add_images(folder, progress=False)
        alone.append(len(retriever.index))
        if group.rank == 0:
            retriever.create_index(tmp_path / "of the first")
            retriever.add_images(folder, progress=False, share=False)
        return [*alone, len(retriever.index)]

    assert launch(fill) == [[3, 3, 3]] * 2
