"""The README's Python blocks run as they stand, in a folder with photos and backbones under the names they use."""

import os
import re

import pytest
from PIL import Image

from tests.documentation import ROOT, blocks, reader_folder

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reader_folder(tmp_path_factory.mktemp("user"))


def test_every_block_runs_verbatim(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert len(blocks(README)) == 3
    for block in blocks(README):
        assert not block.skipped
        exec(compile(block.code, "README.md", "exec"), {})
    with Image.open("explained.png") as picture:
        assert picture.size[0] > 100
    assert {"config.json", "model.safetensors"} <= set(os.listdir("my-retriever"))


def test_fine_tuning_takes_fifteen_lines():
    lines = [line for line in blocks(README)[0].code.splitlines() if line.strip()]
    assert len(lines) <= 15


def test_set_up_is_two_commands():
    setup = re.search(r"## Set up\n\n```bash\n(.*?)```", README.read_text(), flags=re.S)[1]
    assert [line.split("#")[0].strip() for line in setup.strip().splitlines()] == ["make demo", "make test"]
