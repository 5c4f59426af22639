"""The metric module loads alone and offline, and its card's examples run."""

import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from huggingface_hub import metadata_load

from hub_cards.metric.image_text_recall import image_text_recall

FOLDER = Path(image_text_recall.__file__).parent

SCORES = [[0.9, 0.8, 0.1, 0.2], [0.3, 0.1, 0.7, 0.6]]


def test_the_hub_takes_the_card_of_a_space() -> None:
    assert metadata_load(FOLDER / "README.md")["sdk"] in ("docker", "gradio", "static", "streamlit")  # the Hub's list


def test_scores_in_batches_equal_scores_at_once() -> None:
    rng = np.random.default_rng(0)
    scores, captions = rng.normal(size=(6, 18)).tolist(), np.arange(18).reshape(6, 3).tolist()
    metric = evaluate.load(str(FOLDER))
    whole = metric.compute(predictions=scores, references=captions)
    for rows in (slice(0, 4), slice(4, 6)):
        metric.add_batch(predictions=scores[rows], references=captions[rows])
    assert metric.compute() == whole


def test_ranks_equal_scores() -> None:
    module = image_text_recall
    positions = module._both_ways(np.array(SCORES), [[0, 1], [2, 3]])
    ranks = evaluate.load(str(FOLDER), "ranks")
    ranks.add_batch(predictions=positions["i2t"].tolist(), references=["i2t"] * 2)
    ranks.add_batch(predictions=positions["t2i"].tolist(), references=["t2i"] * 4)
    scores = evaluate.load(str(FOLDER))
    assert ranks.compute() == scores.compute(predictions=SCORES, references=[[0, 1], [2, 3]])


def test_combines_with_itself() -> None:
    both = evaluate.combine([evaluate.load(str(FOLDER))])
    assert both.compute(predictions=SCORES, references=[[0, 1], [2, 3]])["rsum"] == 600.0


@pytest.mark.parametrize(
    ("references", "message"), [([[0, 1], [2]], "belongs to no image"), ([[0, 1], [2, 9]], "not a column")]
)
def test_wrong_references(references: list[list[int]], message: str) -> None:
    metric = evaluate.load(str(FOLDER))
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=SCORES, references=references)


def test_card_examples_give_what_they_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    code = "\n".join(blocks).replace("hub_cards/metric/image_text_recall", str(FOLDER))
    expected = re.findall(r"print\(.*\)  # (.*)", code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:-1] == expected


def test_module_needs_no_tgdt() -> None:
    source = Path(FOLDER, "image_text_recall.py").read_text()
    assert not re.search(r"^\s*(import|from) (trainer|modeling_tgdt|hub_cards|\.)", source, re.MULTILINE)
