# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The verbs over a gallery: index, search, explain, bench, serve."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch
from PIL import Image

import modeling_tgdt
import trainer
from modeling_tgdt import TGDTModel
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.hubness import HubnessOptions
from tests.tiny_retrieval import CAPTIONS, picture_folder, random_picture, tiny_model, tiny_processor
from trainer.cli import main

COUNT = 6
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, pictures, and a gallery made of them."""
    folder = tmp_path_factory.mktemp("gallery")
    tiny_model().save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    picture_folder(folder / "pictures", COUNT)
    assert (
        main(["--quiet", "index", str(folder / "pictures"), "--model", f"{folder}/model", "--out", f"{folder}/g"]) == 0
    )
    return folder


def lines(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> list[str]:
    """Run a verb and return what it printed."""
    capsys.readouterr()
    assert main(["--quiet", *map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()


def test_index_extends_resumes_and_reports(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = picture_folder(tmp_path / "pictures", 3)
    (pictures / "bad.jpg").write_bytes(b"no")
    argv = ["index", pictures, "--model", root / "model", "--out", tmp_path / "g", "--on-error", "skip"]
    printed = lines(capsys, *argv, "--token-dtype", "int8", "--copy-model")
    assert printed[0].startswith("skipped bad.jpg: ")
    assert printed[-1].startswith("3 added, 1 skipped; 3 items in ")
    random_picture(9).save(pictures / "new.png")
    assert lines(capsys, *argv, "--resume")[-1].startswith("1 added, 1 skipped, 3 there already; 4 items")
    assert TGDTIndex.open(tmp_path / "g" / "index").settings["token_dtype"] == "int8"
    (tmp_path / "g" / "retriever.json").unlink()
    assert len(lines(capsys, "search", tmp_path / "g", "sea")) == 5


def test_a_models_reference_queries_correct_its_galleries(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (tiny_model(), tiny_processor(), HubnessOptions(torch.eye(2, 32), torch.eye(3, 32), strength=30.0)):
        part.save_pretrained(tmp_path / "model")
    argv = ["index", root / "pictures", "--model", tmp_path / "model", "--out"]
    lines(capsys, *argv, tmp_path / "hubs", "--copy-model")
    (tmp_path / "hubs" / "retriever.json").unlink()
    lines(capsys, *argv, tmp_path / "plain", "--no-hubness")
    lines(capsys, *argv, tmp_path / "plain", "--no-hubness", "--resume")
    on, off, plain = (
        lines(capsys, "search", tmp_path / name, "sea", "--json", *options)
        for name, options in (("hubs", ()), ("hubs", ["--no-hubness"]), ("plain", ()))
    )
    assert on != off == plain
    assert main(["--quiet", *map(str, argv), str(tmp_path / "hubs"), "--no-hubness"]) == 2


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, gallery = 300, tmp_path / "g" / "index"
    pictures = picture_folder(tmp_path / "pictures", count)
    argv = ["index", str(pictures), "--model", f"{root}/model", "--batch-size", "1", "--workers", "1"]
    often = "import sys, trainer.cli, modeling_tgdt.retriever.filling as filling; filling._COMMIT_ITEMS = 4; "
    command = [sys.executable, "-c", often + "trainer.cli.main(sys.argv[1:])", *argv, "--out", f"{tmp_path}/g"]
    with subprocess.Popen(command, cwd=ROOT) as running:
        while not (gallery / "manifest.json").exists() or len(TGDTIndex.open(gallery)) < 20:
            assert running.poll() is None
            time.sleep(0.01)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    found = TGDTIndex.open(gallery)
    there = len(found)
    assert 20 <= there < count and found.verify() == []
    last = lines(capsys, *argv, "--out", tmp_path / "g", "--resume")[-1]
    assert last.startswith(f"{count - there} added, 0 skipped, {there} there already; {count} items")
    lines(capsys, *argv, "--out", tmp_path / "whole")
    hits = [lines(capsys, "search", tmp_path / name, "a red ball", "--json") for name in ("g", "whole")]
    assert hits[0] == hits[1]


def test_texts_are_indexed_and_found_by_a_picture(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [CAPTIONS[0], "", json.dumps({"id": "x", "text": CAPTIONS[1]})]
    (tmp_path / "texts").write_text("\n".join(rows))
    lines(capsys, "index", tmp_path / "texts", "--texts", "--model", root / "model", "--out", tmp_path / "g")
    found = lines(capsys, "search", tmp_path / "g", "--image", root / "pictures" / "000.png", "--json")
    assert {json.loads(line)["id"] for line in found} == {"1", "x"}


def test_search_prints_a_table_json_lines_and_a_sheet(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    table = lines(capsys, "search", root / "g", "a red ball", "--top-k", "3", "--sheet", sheet)
    rows = [json.loads(line) for line in lines(capsys, "search", root / "g", "a red ball", "--top-k", "3", "--json")]
    assert [line.split()[1] for line in table[1:]] == [row["id"] for row in rows]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows == sorted(rows, key=lambda row: -row["score"])
    with Image.open(sheet) as picture:
        assert picture.width > 3 * 240
    first = lines(capsys, "search", root / "g", "sea", "--mode", "global", "--json")[0]
    assert json.loads(first)["local_score"] is None
    same = lines(capsys, "search", root / "g", "--image", root / "pictures" / "sub" / "001.png", "--json")[0]
    assert json.loads(same)["id"] == "sub/001.png"


def test_explain_prints_words_and_draws(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"
    picture = root / "pictures" / "000.png"
    printed = lines(capsys, "explain", "--model", root / "model", picture, "a red ball", "--out", out)
    assert [line.split()[0] for line in printed[1:-1]] == ["a", "red", "ball"]
    with Image.open(out) as sheet:
        assert sheet.width > 320


def test_bench_times_every_mode(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "queries").write_text("\n".join(CAPTIONS))
    argv = ["bench", root / "g", "--top-k", "2", "--count", "3"]
    result = json.loads(lines(capsys, *argv, "--queries", tmp_path / "queries", "--json")[0])
    assert set(result["times_ms"]) == {"encode", "search two_stage", "search global", "search local"}
    assert result["queries"] == 3
    assert result["shortlist_recall"][str(COUNT)] == 1
    assert result["pooling"] == []
    report = lines(capsys, *argv, "--pool", "2", "3")
    assert any("p95" in line for line in report)
    assert report[-3].startswith("suggested: --candidates ")
    assert [line.split(":")[0] for line in report[-2:]] == ["pool factor 2", "pool factor 3"]


def test_index_takes_pooling_and_engine_options(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["index", root / "pictures", "--model", root / "model", "--out", tmp_path / "g", "--pool-factor", "4"]
    lines(capsys, *argv, "--engine", "faiss", "--engine-option", "min_rows=1000", "--engine-option", "factory=Flat")
    index = TGDTIndex.open(tmp_path / "g" / "index")
    assert index.settings["engine_options"] == {"min_rows": 1000, "factory": "Flat"}
    whole = TGDTIndex.open(root / "g" / "index")
    counts = [[len(tokens) for tokens in own.get(sorted(own))[1]] for own in (index, whole)]
    assert counts[0] == [-(-count // 4) for count in counts[1]]


def test_texts_do_not_go_into_a_gallery_of_pictures(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text(CAPTIONS[0])
    argv = ["index", str(tmp_path / "texts"), "--texts", "--model", f"{root}/model", "--out", f"{root}/g"]
    assert main(["--quiet", *argv]) == 2
    assert "has kind='image', found 'text'" in capsys.readouterr().err
    lines(capsys, "search", root / "g", "sea", "--sheet", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (["--engine", "exact"], "engine='faiss', found 'exact'"),
        (["--engine-option", "min_rows=7"], "min_rows=1000, found 7"),
        (["--engine-option", "nprobe=7"], "nprobe='its default', found 7"),
        (["--token-dtype", "float16"], "token_dtype='int8', found 'float16'"),
        (["--pool-factor", "1"], "pool_factor=2, found 1"),
        (["--global-dim", "32"], "global_dim=16, found 32"),
    ],
)
def test_settings_of_an_existing_gallery_are_not_ignored(
    option: list[str], why: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    argv = ["index", str(root / "pictures"), "--model", f"{root}/model", "--out", f"{tmp_path}/g", "--resume"]
    same = ["--engine", "faiss", "--engine-option", "min_rows=1000", "--token-dtype", "int8", "--pool-factor", "2"]
    same += ["--global-dim", "16"]
    for given in (same, same, []):
        assert main(["--quiet", *argv, *given]) == 0
    assert main(["--quiet", *argv, *option]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert why in last and "another --out" in last


def test_index_builds_the_engine_of_a_large_gallery_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    pictures = picture_folder(tmp_path / "pictures", 4)
    argv = ["index", pictures, "--model", root / "model", "--out", tmp_path / "g", "--resume", "--engine", "faiss"]
    seen = []
    for count in (4, 5, 5, 6):
        picture_folder(pictures, count)
        lines(capsys, *argv, "--engine-option", "min_rows=5", "--engine-option", "factory=HNSW8")
        index = TGDTIndex.open(tmp_path / "g" / "index")
        seen.append(sorted(index._backend.gallery.snapshot.manifest.engine_files))
    assert [len(names) for names in seen] == [0, 1, 1, 1]
    assert seen[1] == seen[2] != seen[3]
    assert index.verify() == []
    index.delete([])  # the lock of the writer was given back


def test_dates_in_metadata_are_printed_as_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").write_text(CAPTIONS[0])
    lines(capsys, "index", tmp_path / "texts", "--texts", "--model", root / "model", "--out", tmp_path / "g")
    with TGDTIndex.open(tmp_path / "g" / "index") as index:
        vectors, tokens = index.get(["1"])
        index.add(["1"], vectors, tokens, metadata=[{"taken": datetime(2024, 5, 1, 12)}])
    (line,) = lines(capsys, "search", tmp_path / "g", "sea", "--json")
    assert json.loads(line)["metadata"] == {"taken": "2024-05-01 12:00:00"}


def test_a_second_writer_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["index", str(root / "pictures"), "--model", str(root / "model"), "--out", str(tmp_path / "g")]
    assert main(["--quiet", *argv]) == 0
    with TGDTIndex.open(tmp_path / "g" / "index") as index:
        index.delete(["000.png"])
        assert main(["--quiet", *argv]) == 2
    assert "tgdt index: error: Another writer" in capsys.readouterr().err.splitlines()[-1]


BAD = [
    (["index", "{root}/missing", "--model", "{root}/model", "--out", "{tmp}/g"], "found none at"),
    (["index", "{root}/pictures", "--model", "{root}/pictures", "--out", "{tmp}/g"], "config.json"),
    (["index", "{root}/pictures", "--texts", "--model", "{root}/model", "--out", "{tmp}/g"], "--texts expects a file"),
    (["index", "{root}/pictures", "--model", "{root}/model", "--out", "{tmp}/g", "--batch-size", "0"], "batch_size"),
    (["index", "{root}/pictures", "--model", "{root}/model", "--out", "{tmp}/g", "--engine", "x"], "engine must be"),
    (
        ["index", "{root}/pictures", "--model", "{root}/model", "--out", "{tmp}/g", "--engine-option", "x"],
        "--engine-option expects KEY=VALUE",
    ),
    (["search", "{root}/g"], "found neither"),
    (["search", "{root}/g", "sea", "--image", "x.jpg"], "cannot be read"),
    (["search", "{root}/g", "--image", "{root}/missing.jpg"], "cannot be read"),
    (["search", "{root}/model", "sea"], "no gallery"),
    (["search", "{root}/missing", "sea"], "found none at"),
    (["search", "{root}/g", "sea", "--where", "year"], "KEY=VALUE"),
    (["search", "{root}/g", "sea", "--where", "year=3"], "Expected a metadata key of this gallery in where"),
    (["search", "{root}/g", "sea", "--top-k", "0"], "top_k"),
    (["search", "{root}/g", "sea", "--sheet", "{tmp}/x.unknown"], "unknown file extension"),
    (["explain", "--model", "{root}/model", "{root}/missing.jpg", "sea"], "cannot be read"),
    (["explain", "--model", "{root}/model", "{root}/pictures/000.png", " "], "Expected at least one word to explain"),
    (["bench", "{root}/g", "--count", "0"], "--count"),
    (["bench", "{root}/g", "--count", "1", "--pool", "0"], "at least 1"),
    (["bench", "{root}/g", "--count", "1", "--recall", "2"], "recall must be"),
    (["serve", "{root}/g", "--port", "99999"], "--port"),
    (["serve", "{root}/g", "--timeout", "0"], "--timeout"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_gives_one_line_and_exit_code_2(
    argv: list[str], message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    filled = [word.format(root=root, tmp=tmp_path) for word in argv]
    assert main(["--quiet", *filled]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"tgdt {argv[0]}: error: ")
    assert message in last


@pytest.mark.parametrize("verb", ["index", "search", "explain", "bench", "serve"])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"tgdt {verb}" in printed


def test_a_fresh_process_searches(root: Path) -> None:
    program = "import sys; from trainer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "search", str(root / "g"), "sea", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == COUNT


def test_a_closed_pipe_ends_quietly(root: Path) -> None:
    """`tgdt search ... | head` has its lines, and no error."""
    command = [sys.executable, "-m", "trainer.cli", "--quiet", "search", root / "g", "sea", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == "" and running.wait() == 141


@pytest.mark.parametrize("flag", ["--device", "--gallery-device"])
def test_a_device_that_is_not_there_is_refused(flag: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["search", str(root / "g"), "sea", flag, "bicycle"])
    assert end.value.code == 2
    assert f"argument {flag}: there is no device 'bicycle' here" in capsys.readouterr().err


def test_the_gallery_moves_where_it_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(TGDTIndex, "to", lambda self, device: moved.append(device.type))
    assert main(["--quiet", "search", str(root / "g"), "sea", "--gallery-device", "cpu"]) == 0
    assert moved == ["cpu"]


def test_metadata_of_what_is_there_is_written_without_embedding(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["index", root / "pictures", "--model", root / "model", "--out", tmp_path / "g"]
    lines(capsys, *argv)
    (tmp_path / "m.csv").write_text("file_name;year\n000.png;2024\n.\\sub\\001.png;2025\n")
    monkeypatch.setattr(TGDTModel, "get_image_features", None)  # nothing is to be embedded
    last = lines(capsys, *argv, "--resume", "--metadata", tmp_path / "m.csv")[-1]
    assert last.startswith(f"0 added, 0 skipped, {COUNT} there already, 2 with new metadata")
    assert "with new metadata" not in lines(capsys, *argv, "--resume", "--metadata", tmp_path / "m.csv")[-1]
    (line,) = lines(capsys, "search", tmp_path / "g", "the", "sea", "--where", "year=2025", "--json")
    assert json.loads(line)["id"] == "sub/001.png"


def test_a_larger_picture_is_read_where_it_is_allowed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder = tmp_path / "pictures"
    folder.mkdir()
    random_picture(0).save(folder / "a.png")
    (folder / "notes.txt").write_text("words")
    argv = ["index", folder, "--model", root / "model", "--out", tmp_path / "g", "--on-error", "skip"]
    capsys.readouterr()
    assert main(["--quiet", *map(str, argv)]) == 2  # nothing was indexed
    printed = capsys.readouterr().out.splitlines()
    assert "set PIL.Image.MAX_IMAGE_PIXELS" in printed[0] and printed[1] == "left out, no pictures: 1 .txt"
    assert lines(capsys, *argv, "--max-pixels", "1000")[-1].startswith("1 added, 0 skipped")


def test_an_index_opens_by_the_directory_that_the_verb_wrote(root: Path) -> None:
    assert len(TGDTIndex.open(root / "g")) == COUNT


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["search", "G", "sea", "--top-k", "1", "--top-k", "2"], "--top-k is given twice"),
        (["train", "--recipe", "scenes", "--output", "o", "--seed", "1", "--seed", "2"], "--seed is given twice"),
    ],
)
def test_a_repeated_option_is_refused(argv: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and why in capsys.readouterr().err


def test_an_option_of_several_values_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.commands import train

    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(train, "run", lambda args: seen.append(args) or 0)
    main(["--quiet", "train", "--recipe", "scenes", "--output", "o", "--set", "a=1", "b=2", "--set", "c=3"])
    main(["--quiet", "train", "--recipe", "scenes", "--output", "o", "--on-error", "skip"])
    assert (seen[0].overrides, seen[1].on_error) == (["a=1", "b=2", "c=3"], "skip")


@pytest.mark.parametrize(
    "argv", [["index", "", "--model", "m", "--out", "g"], ["index", "p", "--model", "m", "--out", ""], ["search", ""]]
)
def test_an_empty_argument_is_not_the_working_directory(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and "is empty: is a variable of the shell not set?" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_an_end_while_parsing_is_quiet(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Libraries take seconds to import, and `tgdt --help | head` stops reading."""

    def end(*_: object) -> None:
        raise error

    monkeypatch.setattr("trainer.cli._parse", end)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert main(["search", "g", "sea"]) == code
    assert "Traceback" not in capfd.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"tgdt {trainer.__version__}\n"
    assert trainer.__version__ == modeling_tgdt.__version__


def test_index_follows_a_folder_and_keeps_what_files_tell(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = picture_folder(tmp_path / "pictures", 3)
    exif = Image.Exif()
    exif[0x0110] = "X100V"
    random_picture(9).save(pictures / "camera.jpg", exif=exif)
    argv = ["index", pictures, "--model", root / "model", "--out", tmp_path / "g", "--sync", "--exif"]
    printed = lines(capsys, *argv)
    assert printed[-1].startswith("4 new, 0 changed, 0 renamed, 0 deleted, 0 unchanged, 0 skipped; 4 items in")
    (pictures / "000.png").unlink()
    (pictures / "camera.jpg").rename(pictures / "moved.jpg")
    rows = tmp_path / "rows.csv"
    rows.write_text("file_name,year\nmoved.jpg,2024\n")
    printed = lines(capsys, *argv, "--metadata", rows)
    assert printed[-1].startswith("0 new, 0 changed, 1 renamed, 1 deleted, 2 unchanged, 0 skipped; 3 items in")
    (hit,) = lines(capsys, "search", tmp_path / "g", "sea", "--where", "camera=X100V", "--json")
    assert json.loads(hit)["metadata"] == {"camera": "X100V", "year": 2024}
    assert main(["--quiet", "index", str(rows), "--texts", *map(str, argv[2:7])]) == 2


def test_search_takes_several_parts_and_leaves_out_what_does_not_match(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", root / "g", "a", "red", "ball", "--json"]
    hits = [json.loads(line) for line in lines(capsys, *argv)]
    mixed = lines(capsys, *argv, "--and", "sea", "--image", root / "pictures/000.png", "--not", "a man")
    weighted = lines(capsys, *argv, "--and", "sea", "--not", "a man", "--weights", "1", "0", "0")
    assert [json.loads(line)["id"] for line in weighted] == [hit["id"] for hit in hits]
    assert [json.loads(line)["score"] for line in mixed] != [hit["score"] for hit in hits]
    least = str(hits[2]["score"] - 1e-6)
    assert len(lines(capsys, *argv, "--min-score", least)) == 3
    grouped = lines(capsys, *argv, "--group-similar", "0.0001")
    assert len(grouped) < len(hits) and json.loads(grouped[0])["similar"]
    for wrong in (["--min-score", "fitted"], ["--min-score", "high"], ["--min-score", "nan"], ["--weights", "1", "2"]):
        assert main(["--quiet", *map(str, argv), *wrong]) == 2
    assert main(["--quiet", "search", str(root / "g"), "--not", "sea"]) == 2
    random_picture(0).save(tmp_path / "a.png")
    random_picture(0).save(tmp_path / "b.png")
    lines(capsys, "index", tmp_path, "--model", root / "model", "--out", tmp_path / "g")
    assert lines(capsys, "duplicates", tmp_path / "g", "--json") == ['["a.png", "b.png"]']
    assert lines(capsys, "duplicates", tmp_path / "g")[-1] == "1 groups, 1 of 2 items are near-duplicates"
