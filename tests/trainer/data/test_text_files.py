# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Tables and texts as people's programs save them: what the file says, or one line that names it."""

import gzip
import json
import unicodedata
from pathlib import Path

import datasets
import pytest

from tests.trainer.tiny import picture
from trainer.commands.index import _read_texts
from trainer.data.region_features import normalise_boxes
from trainer.data.skip_report import SkipReport
from trainer.datasets import load_captions

CAPTIONS = ["a café", "None"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.jpg")
    return tmp_path


def rows_of(folder: Path, **options: object) -> list[tuple[str, list[str]]]:
    return [(row["image_id"], row["captions"]) for row in load_captions(folder, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_reads_the_same_in_every_encoding(folder: Path, encoding: str, mark: str) -> None:
    lines = ["file_name,caption", "0.jpg,a café", "1.jpg,None", "", ",,"]
    content = "\r\n".join(lines).replace(",", mark)
    (folder / "captions.csv").write_bytes(content.encode(encoding))
    expected = [("0.jpg", ["a café"]), ("1.jpg", ["None"])]
    assert rows_of(folder) == expected
    assert rows_of(folder / "captions.csv", streaming=True) == expected


@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl", "CAPTIONS.JSONL"])
def test_json_with_a_byte_order_mark(folder: Path, name: str) -> None:
    rows = ['{"file_name": "0.jpg", "caption": "a ball\u2028on a box"}', '{"file_name": "1.jpg", "caption": "NA"}']
    text = f"[{','.join(rows)}]" if name.endswith(".json") else "\n".join(rows)
    (folder / name).write_text(text, encoding="utf-8-sig")
    expected = [("0.jpg", ["a ball\u2028on a box"]), ("1.jpg", ["NA"])]
    assert rows_of(folder) == rows_of(folder / name, streaming=True) == expected


def test_a_table_without_header_and_the_hint_of_excel(folder: Path) -> None:
    (folder / "captions.csv").write_text("sep=;\n0.jpg;a cat, a dog, a cow\n1.jpg;b\n")
    assert rows_of(folder) == [("0.jpg", ["a cat, a dog, a cow"]), ("1.jpg", ["b"])]


def test_several_tables_are_read_as_text_by_split(folder: Path) -> None:
    tables = folder / "tables"
    tables.mkdir()
    for name in ("train-0.csv", "train-1.csv", "test.csv"):
        (tables / name).write_text(f"image_id,image,caption\n007{name},{folder}/0.jpg,null\n")
    assert rows_of(tables, split="train") == [("007train-0.csv", ["null"]), ("007train-1.csv", ["null"])]
    with pytest.raises(ValueError, match="Found \\['test', 'train'\\]|Found \\['train', 'test'\\]"):
        load_captions(tables)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('file_name,caption\n0.jpg,"a dog\n1.jpg,a cat\n', "Line 2 of .*captions.csv: a quote is not closed"),
        ('file_name,caption\n0.jpg,"a dog\n1.jpg,"a cat"\n', "Line 2 of .*captions.csv: a quote is not closed"),
        ("file_name,caption,x\n\n0.jpg,a\n", "Line 3 of .*captions.csv has 2 fields, the header has 3"),
        ("a stray note", "captions.csv below its header, 'a stray note', found none"),
        ("a stray note\nof two lines", "captions.csv: The data set needs a picture column"),
        ("", "captions.csv is empty"),
    ],
)
def test_a_bad_table_is_one_line_with_file_and_line(folder: Path, content: str, why: str) -> None:
    (folder / "captions.csv").write_text(content)
    with pytest.raises(ValueError, match=why):
        load_captions(folder)


def test_texts_keep_their_lines_and_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffa\u2028ball\r\ntwo\x0bdogs\x0c\n\n".encode())
    assert list(_read_texts(path)) == [("1", "a\u2028ball"), ("2", "two\x0bdogs")]
    path.write_text('{"id": null, "text": "sea"}\n{"id": "", "text": "sky"}\n{"id": 3.0, "text": "x"}\n')
    assert list(_read_texts(path)) == [("1", "sea"), ("2", "sky"), ("3", "x")]


def test_a_report_keeps_names_with_line_separators_and_lone_bytes() -> None:
    report = SkipReport()
    for name in ("a\u2028b.jpg", "a\x85b.jpg", "\udcff.jpg"):
        report.add(name, "bad")
    assert [name for name, _ in report] == ["a\u2028b.jpg", "a\x85b.jpg", "\udcff.jpg"]


@pytest.mark.parametrize("missing", [None, "", " "])
def test_rows_without_id_are_photos_of_their_own(missing: str | None) -> None:
    kinds = {"image": datasets.Image(), "caption": datasets.Value("string"), "image_id": datasets.Value("string")}
    rows = {"image": [picture(n) for n in range(4)], "caption": list("abcd"), "image_id": ["1", missing, missing, "1"]}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    photos = load_captions(table)
    assert dict(zip(photos["image_id"], photos["captions"], strict=True)) == {
        "1": ["a", "d"], "row-1": ["b"], "row-2": ["c"]
    }  # fmt: skip
    assert [row["image_id"] for row in load_captions(table.to_iterable_dataset())] == ["1", "row-1", "row-2", "1"]


def test_numbers_with_gaps_are_ids_like_whole_numbers() -> None:
    table = datasets.Dataset.from_dict({"path": list("abc"), "caption": list("xyz"), "id": [7.0, float("nan"), 7.0]})
    photos = load_captions(table)
    assert dict(zip(photos["image_id"], photos["captions"], strict=True)) == {"7": ["x", "z"], "b": ["y"]}


@pytest.mark.parametrize("id_column", ["id", None])
@pytest.mark.parametrize("embedded", [True, False])
def test_captions_of_one_embedded_picture_are_one_photo(
    id_column: str | None, embedded: bool, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(2).save(folder / "2.jpg")
    names = [str(folder / f"{number}.jpg") for number in (0, 1, 0, 2, 1)]
    cells = [{"bytes": Path(name).read_bytes(), "path": None} for name in names] if embedded else names
    rows = {"image": cells, "caption": list("abcde")} | ({id_column: list(range(10, 15))} if id_column else {})
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    for source in (table, table.select([0, 1, 2, 3, 4])):
        assert load_captions(source)["captions"][:] == [["a", "c"], ["b", "e"], ["d"]]
    assert ("'id' numbers the rows, of which 5 show 3 pictures" in caplog.text) == bool(id_column)
    alone = load_captions(table.select([1, 2, 3]))
    assert alone["captions"][:] == [["b"], ["c"], ["d"]]
    assert alone["image_id"][:] == (["11", "12", "13"] if id_column else ["0", "1", "2"])
    if id_column:
        assert len(load_captions(table, columns={"image_id": "id"})) == 5


def test_an_id_that_numbers_the_captions_is_no_photo(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "captions.csv").write_text("id,file_name,caption\n1,0.jpg,a\n2,0.jpg,b\n3,1.jpg,c\n")
    assert rows_of(folder) == [("0.jpg", ["a", "b"]), ("1.jpg", ["c"])]
    assert "'id' numbers the rows" in caplog.text
    assert len(load_captions(folder, columns={"image_id": "id"})) == 3


@pytest.mark.parametrize(
    "name",
    [
        *["photos/sub/Café.JPG", ".\\sub\\Café.JPG", "café.jpg", "Café", "C:\\me\\photos\\sub\\café.jpeg"],
        *["sub/Caf%C3%A9.JPG", "caf%c3%a9"],
    ],
)
def test_a_name_that_means_one_file_finds_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    picture(0).save(tmp_path / "sub" / unicodedata.normalize("NFD", "Café.JPG"))
    picture(1).save(tmp_path / "other.png")
    (tmp_path / "captions.csv").write_text(f"file_name,caption\n{name},a cup\nother.png,b\n", encoding="utf-8")
    assert load_captions(tmp_path)[0]["image"].size == (40, 30)
    assert next(iter(load_captions(tmp_path, streaming=True)))["image"].size == (40, 30)


def test_most_pictures_missing_is_an_error_whatever_the_policy(folder: Path) -> None:
    (folder / "captions.csv").write_text("file_name,caption\n00.jpg,a\nx/7.jpg,b\n0.jpg,c\n")
    with pytest.raises(ValueError, match="2 of 3 pictures of .*captions.csv are not there.*Did you mean '0.jpg'"):
        load_captions(folder, on_error="skip")


def test_a_missing_folder_names_its_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: (_ for _ in ()).throw(FileNotFoundError("no")))
    with pytest.raises(ValueError, match="There is no file or folder 'phtos' here. Did you mean 'photos'"):
        load_captions("phtos")


def test_lists_of_one_picture_are_that_picture() -> None:
    kinds = datasets.Features({"images": datasets.List(datasets.Image()), "caption": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"images": [[picture(0)], [picture(1)]], "caption": ["a", "b"]}, features=kinds)
    assert [photo["image"].size for photo in load_captions(table)] == [(40, 30)] * 2
    assert len(list(load_captions(table.to_iterable_dataset()))) == 2
    table = datasets.Dataset.from_dict({"images": [[picture(0)] * 2], "caption": ["a"]}, features=kinds)
    with pytest.raises(ValueError, match="'images' has 2 pictures in row 0"):
        load_captions(table)


def test_half_a_surrogate_pair_is_refused_by_name(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file_name": "0.jpg", "caption": "a dog \\ud83d"}\n')
    with pytest.raises(ValueError, match="captions.jsonl, column 'caption': .*half of a surrogate pair"):
        load_captions(folder)


def test_boxes_outside_the_photo_are_refused() -> None:
    with pytest.raises(ValueError, match="Boxes of photo '7' reach"):
        normalise_boxes([[0, 0, 30, 40]], (30, 40), "7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,caption\n0.jpg,a\x00b\n", "is not text: byte 26 is NUL"),
        (gzip.compress(b"file_name,caption\n0.jpg,a\n", mtime=0), "is not text: byte .* is NUL. Unpack it"),
        (b"file_name,caption\n" + 1000 * b"0.jpg,a\n" + b"1.jpg,\x00\n", "is not text: byte 8025 is NUL"),
        (b"file_name,caption,caption\n0.jpg,a,b\n", "has 2 columns 'caption': rename or remove all but one"),
        (b"file_name,caption\n", "below its header, 'file_name,caption', found none"),
    ],
)
def test_files_that_hold_no_table_say_so(content: bytes, message: str, folder: Path) -> None:
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"captions\.csv {message}"):
        load_captions(folder)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_table_in_utf_16_needs_no_mark(encoding: str, folder: Path) -> None:
    (folder / "captions.csv").write_bytes("file_name,caption\n0.jpg,a\u2019b\n".encode(encoding))
    assert rows_of(folder) == [("0.jpg", ["a\u2019b"])]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_several_types_read_alike_whole_and_as_a_stream(streaming: bool, folder: Path) -> None:
    rows: list[dict[str, object]] = [{"image": "0.jpg", "image_id": 7, "captions": """['a cat', "b"]"""}]
    rows += [{"image": "1.jpg", "image_id": "b", "captions": "[sic]"}]
    rows += [{"image": "1.jpg", "image_id": 8.0, "captions": '["c", "it\'s"]'}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = rows_of(folder / "captions.jsonl", streaming=streaming)
    assert found == [("7", ["a cat", "b"]), ("b", ["[sic]"]), ("8", ["c", "it's"])]
    (folder / "captions.jsonl").write_text(f'{{"image": "0.jpg", "image_id": {10**30}, "caption": "a"}}')
    assert rows_of(folder / "captions.jsonl", streaming=streaming) == [(str(10**30), ["a"])]
    (folder / "captions.jsonl").write_text('{"image": "0.jpg", "caption": true}')
    with pytest.raises(ValueError, match="Captions must be text or lists of text, found bool: True"):
        rows_of(folder / "captions.jsonl", streaming=streaming)


def test_quotes_behind_a_comma_and_a_space_hold_a_field(folder: Path) -> None:
    (folder / "captions.csv").write_text(
        'file_name, image_id, caption\n0.jpg, "7", "a ""cat"", a dog"\n1.jpg, 8, "a" b "c"\n'
    )
    assert rows_of(folder) == [("7", ['a "cat", a dog']), ("8", ['"a" b "c"'])]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.parquet is not a readable parquet file: "):
        load_captions(tmp_path / "x.parquet")


@pytest.mark.parametrize("streaming", [False, True])
def test_odd_shapes_of_json_and_tables_are_read(folder: Path, streaming: bool) -> None:
    shapes = {
        "a.jsonl": '{"file_name": "0.jpg", "captions": "x"}\n{"file_name": "1.jpg", "captions": ["y"]}\n',
        "b.jsonl": '{"file_name": "0.jpg", "captions": [{"text": "x"}]}\n{"file_name": "1.jpg", "captions": ["y"]}\n',
        "c.csv": "image_name| comment_number| comment\n0.jpg| 0| x\n1.jpg| 0| y\n",
    }
    for name, content in shapes.items():
        (folder / name).write_text(content)
        if name != "b.jsonl" or streaming:  # a column of structures and texts is no table
            assert rows_of(folder / name, streaming=streaming) == [("0.jpg", ["x"]), ("1.jpg", ["y"])], name
    (folder / "d.jsonl").write_text('{"file_name": "0.jpg", "caption": NaN}\n{"file_name": "1.jpg", "caption": "y"}\n')
    assert rows_of(folder / "d.jsonl", streaming=streaming) == [("0.jpg", []), ("1.jpg", ["y"])]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl holds no rows"),
        ("a.json", "[]", "a.json holds no rows"),
        ("a.json", '{"data": []}', "a.json: The data set needs a picture column"),
        ("a.json", '[{"file_name": "0.jpg", "caption": {"en": "x"}}]', "must be text or lists of text, found dict"),
        ("a.csv", "file_name,caption,split\n0.jpg,x,train\n1.jpg,a,b,train\n", "Line 3 of .*a.csv has 4 fields"),
    ],
)
def test_what_is_no_table_of_captions_is_named(
    folder: Path, name: str, content: str, message: str, streaming: bool
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        rows_of(folder / name, streaming=streaming)


def test_ids_of_bytes_are_text(folder: Path) -> None:
    rows = {"image": [str(folder / "0.jpg")], "caption": ["x"], "image_id": [b"caf\xc3\xa9"]}
    assert load_captions(datasets.Dataset.from_dict(rows))["image_id"][:] == ["café"]
    with pytest.raises(ValueError, match="id of row 0 is not UTF-8 text"):
        load_captions(datasets.Dataset.from_dict(rows | {"image_id": [b"\xff"]}))
