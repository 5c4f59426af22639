# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Names and files of strangers on the command line: no escapes, no file from elsewhere, one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hub_cards.space.collection import Collection
from hub_cards.space.searching import score_table
from modeling_tgdt.retriever.picture_sources import picture_inside
from tests.tiny_retrieval import random_picture, tiny_retriever
from trainer.cli import main

NAMES = [
    "../private.png",
    "/etc/passwd",
    "a\0b.png",
    "\x1b]0;owned\x07\x1b[2J",
    "![x](http://stranger/x.png)|<b>",
    "\u202e",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    retriever = tiny_retriever()
    retriever.create_index(root / "g" / "index")
    pictures = [random_picture(seed) for seed in range(len(NAMES))]
    retriever.add_images(pictures, ids=NAMES, metadata=[{"note\x1b[2J": "\x9b31m"}] * len(NAMES), progress=False)
    retriever.save_pretrained(root / "g")
    (root / "photos").mkdir()
    Image.new("RGB", (9, 9), "red").save(root / "private.png")
    return root


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_terminal_sees_no_escapes(made: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main(["--quiet", "search", str(made / "g"), "sea", *options]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines()) and "\\u001b]0;owned" in shown
    if options:
        assert {json.loads(line)["id"] for line in shown.splitlines()} == set(NAMES)


def test_a_sheet_shows_pictures_of_its_folder_only(made: Path, tmp_path: Path, capsys: object) -> None:
    sheet = tmp_path / "sheet.png"
    argv = ["--quiet", "search", str(made / "g"), "sea", "--sheet", str(sheet), "--pictures", str(made / "photos")]
    assert main(argv) == 0
    colours = {colour for _, colour in Image.open(sheet).convert("RGB").getcolors(1 << 20)}
    assert (211, 211, 211) in colours and (255, 0, 0) not in colours
    random_picture(1).save(made / "photos" / "a.png")
    assert picture_inside(made / "photos", "a.png") == (made / "photos" / "a.png").resolve()
    collection = Collection(tiny_retriever(), made / "photos")
    for name in NAMES[:4]:
        assert collection.picture(name) is None


def test_the_page_loads_nothing_that_an_id_names() -> None:
    table = score_table([[1, name, "0.5", "0.5", "0.5"] for name in NAMES])
    shown = re.sub(r"\\.", "", table)  # without what is escaped
    assert "](" not in shown and "<" not in shown
    assert len(table.split("\n")) == len(NAMES) + 4


def cut(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[: (model / name).stat().st_size // 2])


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        cut("model.safetensors"),
        written("model.safetensors", ""),
        *[written("config.json", text) for text in ("{}", "[]", "null", "[" * 100_000)],
        *[written("tokenizer.json", text) for text in ("{}", "null")],
        *[written("processor_config.json", text) for text in ("[]", "{")],
        written("tokenizer_config.json", "null"),
    ],
)
def test_a_damaged_model_is_one_line(
    made: Path, tmp_path: Path, change: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(made / "g", model, ignore=shutil.ignore_patterns("index"))
    change(model)
    (tmp_path / "photos").mkdir()
    random_picture(0).save(tmp_path / "photos" / "a.png")
    assert (
        main(["--quiet", "index", str(tmp_path / "photos"), "--model", str(model), "--out", str(tmp_path / "g")]) == 2
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tgdt index: error: ")]
    assert len(errors) == 1


def test_a_full_disk_under_a_checkpoint_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`torch.save` tells of it by its own writer's RuntimeError."""
    import trainer.commands.train as train

    def full(args: object) -> int:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(train, "run", full)
    assert main(["train", "--recipe", "scenes", "--output", str(tmp_path)]) == 2
    assert "tgdt train: error: [enforce fail" in capsys.readouterr().err
    monkeypatch.setattr(train, "run", lambda args: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "--recipe", "scenes", "--output", str(tmp_path)])
