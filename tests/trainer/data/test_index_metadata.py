# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt index --metadata`: columns of a CSV or JSONL file as metadata of the items."""

import json
from pathlib import Path

import pytest

from tests.tiny_retrieval import CAPTIONS, picture_folder, tiny_model, tiny_processor
from trainer.cli import main
from trainer.data.index_metadata import read_metadata

NAMES = ["a.png", "sub/b.png", "007"]


def test_both_formats_give_the_same_rows_in_the_order_of_the_items(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,file_name,year,taken\n1,007,2024,2024-05-01\n2,a.png,2025,2025-06-02\n")
    rows = [
        {"file_name": "a.png", "id": "2", "year": 2025, "taken": "2025-06-02"},
        {"file_name": "007", "id": "1", "year": 2024, "taken": "2024-05-01"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = [{key: row[key] for key in ("id", "year", "taken")} for row in rows]
    for name in ("m.csv", "m.jsonl"):
        assert read_metadata(tmp_path / name, NAMES) == [expected[0], {}, expected[1]]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_words_of_another_encoding_are_text(tmp_path: Path, encoding: str) -> None:
    """They became bytes, which no answer of the service can hold."""
    (tmp_path / "m.csv").write_bytes("id,place\n007,Café Zürich\n".encode(encoding))
    assert read_metadata(tmp_path / "m.csv", NAMES)[2] == {"place": "Café Zürich"}


@pytest.mark.parametrize(
    ("name", "content", "error", "why"),
    [
        ("m.csv", "file_name,year\nx.png,1\ny.png,2\na.png,3\n", ValueError, r"2 items that are not there, such as"),
        ("m.csv", "id,year\n007,1\n007,2\n", ValueError, "names 1 items again"),
        ("m.csv", "name,year\na.png,1\n", ValueError, "must have a column 'file_name' or 'id'.*'name', 'year'"),
        ("m.csv", "id,year\n1,2,3\n", ValueError, "not a readable CSV"),
        ("m.jsonl", "{", ValueError, "not a readable JSONL"),
        ("m.jsonl", "[1]", ValueError, "one JSON object"),
        ("m.jsonl", "", ValueError, "holds no rows"),
        ("m.jsonl", '{"id": "007", "y": 1}\n{"id": "a.png", "y": "x"}', TypeError, "'y' mixes types"),
        ("m.xlsx", "", ValueError, "csv or .jsonl"),
    ],
)
def test_unusable_files_are_refused(name: str, content: str, error: type[Exception], why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=why):
        read_metadata(tmp_path / name, NAMES)


def test_pictures_and_texts_are_filtered_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    picture_folder(tmp_path / "pictures", 4)
    (tmp_path / "texts").write_text("\n".join(CAPTIONS))
    (tmp_path / "pictures.csv").write_text("file_name,year\nsub/001.png,2024\n000.png,2025\n")
    (tmp_path / "texts.jsonl").write_text('{"id": 3, "year": 2024}\n{"id": 1, "year": 2025}\n')
    for kind, query, expected in (("pictures", ["sea"], "sub/001.png"), ("texts", None, "3")):
        argv = ["index", f"{tmp_path}/{kind}", "--model", f"{tmp_path}/model", "--out", f"{tmp_path}/g-{kind}"]
        table = next(tmp_path.glob(f"{kind}.*"))
        assert main(["--quiet", *argv, *(["--texts"] if kind == "texts" else []), "--metadata", str(table)]) == 0
        capsys.readouterr()
        asked = query or ["--image", f"{tmp_path}/pictures/000.png"]
        assert main(["--quiet", "search", f"{tmp_path}/g-{kind}", *asked, "--where", "year=2024", "--json"]) == 0
        (hit,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert (hit["id"], hit["metadata"]) == (expected, {"year": 2024})


def test_a_refused_file_leaves_no_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture_folder(tmp_path / "pictures", 2)
    (tmp_path / "m.csv").write_text("id,year\nnothing.png,2024\n")
    argv = ["index", f"{tmp_path}/pictures", "--model", f"{tmp_path}/model", "--out", f"{tmp_path}/g"]
    assert main(["--quiet", *argv, "--metadata", f"{tmp_path}/m.csv"]) == 2
    assert "1 items that are not there, such as ['nothing.png']" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()
