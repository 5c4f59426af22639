"""The README's Python blocks run as they stand, in a folder with photos and backbones under the names they use."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, ViTImageProcessor

from trainer.scenes import make_scenes
from trainer.tokenizers import build_word_tokenizer

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    scenes = make_scenes(12, 0, image_size=56)
    (root / "photos").mkdir()
    lines = ["file_name,caption"]
    for number, row in enumerate(scenes):
        row["image"].save(root / "photos" / f"{number}.jpg")
        lines += [f'{number}.jpg,"{caption}"' for caption in row["captions"]]
    (root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    lines.append("broken.jpg,a broken picture")
    (root / "photos" / "captions.csv").write_text("\n".join(lines))
    tokenizer = build_word_tokenizer([caption for row in scenes["captions"] for caption in row])
    text = root / "sentence-transformers" / "all-MiniLM-L6-v2"
    tokenizer.save_pretrained(text)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**small, intermediate_size=64, vocab_size=len(tokenizer))).save_pretrained(text)
    vision = root / "facebook" / "dinov2-small"
    Dinov2Model(Dinov2Config(**small, image_size=56, patch_size=14)).save_pretrained(vision)
    ViTImageProcessor(size={"height": 56, "width": 56}).save_pretrained(vision)
    return root


def blocks():
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.S | re.M)


def test_every_block_runs_verbatim(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert len(blocks()) == 3
    for block in blocks():
        exec(compile(block, "README.md", "exec"), {})
    with Image.open("explained.png") as picture:
        assert picture.size[0] > 100
    assert {"config.json", "model.safetensors"} <= set(os.listdir("my-retriever"))


def test_fine_tuning_takes_fifteen_lines():
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 15


def test_set_up_is_two_commands():
    setup = re.search(r"## Set up\n\n```bash\n(.*?)```", README.read_text(), flags=re.S)[1]
    assert [line.split("#")[0].strip() for line in setup.strip().splitlines()] == ["make demo", "make test"]
