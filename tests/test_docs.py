# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The pages in docs/: their Python blocks run, their links lead somewhere, and what they promise holds."""

import re
import shutil
from pathlib import Path

import pytest

from tests.documentation import ROOT, blocks, reader_folder, run_page
from trainer import evaluate_retrieval

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [*PAGES, *ROOT.glob("*.md"), ROOT / "examples" / "README.md"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_folder(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy, so that a page finds nothing that another one wrote."""
    shutil.copytree(prepared, tmp_path / "reader")
    monkeypatch.chdir(tmp_path / "reader")
    return tmp_path / "reader"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page.stem != "interoperability"], ids=lambda page: page.stem
)
def test_blocks_run(page: Path, folder: Path) -> None:
    run_page(page)


def test_interoperability(folder: Path) -> None:
    """Its blocks run, and other libraries find what ours does."""
    for library in ("faiss", "peft", "sentence_transformers", "tensorboard"):
        pytest.importorskip(library, reason="needs the extra `interop`")
    found = run_page(ROOT / "docs" / "interoperability.md")
    retriever, photos = found["retriever"], found["photos"]
    retriever.add_images(photos["image"], ids=photos["image_id"], progress=False)
    hits = retriever.search("a small red star", top_k=3, mode="global")
    assert found["nearest"]["image_id"] == [hit.id for hit in hits]
    assert found["scores"] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    ours = evaluate_retrieval(found["model"], found["processor"], photos, modes=["global"])["global"]
    for k in (1, 5, 10):
        assert 100 * found["metrics"][f"dot_accuracy@{k}"] == pytest.approx(ours[f"t2i_r{k}"])
    assert 100 * found["metrics"]["dot_mrr@10"] <= 100 * ours["t2i_mrr"] + 1e-6
    adapted = found["get_peft_model"](found["TGDTModel"].from_pretrained("my-model"), found["lora"])
    towers = {name.split(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert towers == {"vision_model", "text_model"}
    assert list(Path("my-lora").rglob("events.out.tfevents.*")) and Path("my-merged-model", "config.json").exists()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_marks_of_blocks_are_checked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nvalue = 1\n```\n\n```python no-run needs a server\nconnect()\n```\n")
    assert [block.skipped for block in blocks(page)] == ["", "needs a server"]
    assert run_page(page)["value"] == 1
    for mark in ("no-run", "skip"):
        page.write_text(f"```python {mark}\n1 / 0\n```\n")
        with pytest.raises(ValueError, match="page.md:1: expected"):
            run_page(page)


def test_the_tests_that_security_names_exist() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    named = set(re.findall(r"`(test_\w+\.py)`", page))
    assert named - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()
    rows = re.findall(r"^\| (?!you load|promise|---).*\|$", page, re.MULTILINE)
    assert len(rows) > 20
    for row in rows:  # each says what shows it, or that nothing does
        assert re.search(r"`test_\w+\.py`|\bfuzzing\b|\bnone\b", row.rsplit("|", 2)[1]), row
