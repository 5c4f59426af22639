"""evaluate_grounding: a model whose words point where the test says, and the words that count."""

from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import trainer.scoring.grounding as grounding
from tests.trainer.scenes_model import processor, scenes, tiny_model
from trainer.scenes.phrases import scene_phrases
from trainer.scoring.grounding import evaluate_grounding, word_spans

# Four cells of a 40 x 40 picture, and two things: one in the first cell, one in the last.
CELLS = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]])
THINGS = [[[0.0, 0.0, 15.0, 15.0]], [[21.0, 21.0, 39.0, 39.0]]]


def photo(caption: str, phrases: list[dict[str, Any]]) -> datasets.Dataset:
    row = {"image": Image.new("RGB", (40, 40)), "captions": [caption], "things": THINGS, "phrases": [phrases]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "things": datasets.List(datasets.List(datasets.List(datasets.Value("float32")))),
            "phrases": datasets.List(
                [{"start": datasets.Value("int32"), "end": datasets.Value("int32"), "kind": datasets.Value("string"),
                  "things": datasets.List(datasets.Value("int32"))}]
            ),
        }
    )  # fmt: skip
    return datasets.Dataset.from_list([row], features=features)


@pytest.fixture
def pointing(monkeypatch):
    """Let every word point at the cell that `cells` names for it."""
    cells: dict[str, int] = {}

    def words(model: Any, processor: Any, text: str) -> Any:
        found = text.split()
        return torch.eye(4)[[cells.get(word, 1) for word in found]], [(w, [i]) for i, w in enumerate(found)]

    monkeypatch.setattr(grounding, "encoded_words", words)
    monkeypatch.setattr(
        grounding, "picture_regions", lambda model, processor, image: (torch.eye(4), CELLS, (2, 2), image)
    )
    return cells


MODEL = SimpleNamespace(training=False, eval=lambda: None, train=lambda mode: None)


def test_words_are_right_where_their_best_region_is_nearest_and_inside(pointing) -> None:
    caption = "a ball beside the red box"
    phrases = [
        {"start": 0, "end": 6, "kind": "toy", "things": [0]},
        {"start": 14, "end": 25, "kind": "thing", "things": [1]},
    ]
    pointing.update(ball=0, red=3, box=0, a=3, the=3, beside=3)
    found = evaluate_grounding(MODEL, None, photo(caption, phrases))
    # Cells 1 and 2 are as far from both things' centres as can be; the first thing is nearer to them.
    assert found["toy"] == {
        "nearest": 100.0,
        "nearest_chance": 25.0 * _nearer_to_first(),
        "inside": 100.0,
        "inside_chance": 25.0,
        "words": 1,
    }
    assert found["thing"]["nearest"] == found["thing"]["inside"] == 50.0 and found["thing"]["words"] == 2
    assert found["all"]["words"] == 3 and found["all"]["nearest"] == pytest.approx(200 / 3)


def _nearer_to_first() -> int:
    centres = (CELLS[:, :2] + CELLS[:, 2:]) / 2 * 40
    first, second = np.array([7.5, 7.5]), np.array([30.0, 30.0])
    return sum(np.linalg.norm(centre - first) <= np.linalg.norm(centre - second) for centre in centres)


def test_a_word_may_name_several_things(pointing) -> None:
    phrases = [{"start": 0, "end": 5, "kind": "toy", "things": [0, 1]}]
    pointing.update(balls=3)
    found = evaluate_grounding(MODEL, None, photo("balls", phrases))["toy"]
    assert (found["nearest"], found["nearest_chance"], found["inside"], found["inside_chance"]) == (100, 100, 100, 50)


def test_words_of_scenes_name_their_things() -> None:
    for row in scenes(24, 4).remove_columns("image"):
        for caption in row["captions"]:
            found = scene_phrases(caption, row["regions"])
            for phrase in found:
                word = caption[phrase["start"] : phrase["end"]].lower()
                same = {"ball": "circle", "box": "square", "hoop": "ring", "little": "small", "big": "large"}
                word = same.get(word, word)
                assert all(word in row["regions"][thing]["label"].split() for thing in phrase["things"])
                assert len(phrase["things"]) == 1 or phrase["kind"] == "size"
            assert sum(phrase["kind"] == "shape" for phrase in found) >= 2


def test_scenes_are_read_from_their_regions() -> None:
    found = evaluate_grounding(tiny_model(), processor(), scenes(6, 4))
    assert set(found) == {"colour", "shape", "size", "all"}
    assert found["all"]["words"] == sum(found[kind]["words"] for kind in ("colour", "shape", "size"))
    assert 0 < found["shape"]["nearest_chance"] < 100 and 0 < found["shape"]["inside_chance"] < 50


def test_spans_of_words() -> None:
    assert word_spans("A red Red ball", ["red", "red", "cube", "ball"]) == [(2, 5), (6, 9), None, (10, 14)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["captions"], "Expected pictures with annotations"), (["captions", "image"], r"Found \['captions', 'image'\]")],
)
def test_refusals(columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_grounding(tiny_model(), processor(), scenes(4, 0).select_columns(columns))


def test_nothing_named_is_an_error(pointing) -> None:
    with pytest.raises(ValueError, match="No word"):
        evaluate_grounding(MODEL, None, photo("a ball", []))
