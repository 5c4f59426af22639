# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The retrieval pipeline against the model's own forward pass, and transformers' zero-shot pipeline on TGDT."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_tgdt.pipeline_tgdt import TASK, ImageTextRetrievalPipeline
from tests.tiny_retrieval import CAPTIONS, random_picture, tiny_model, tiny_processor

PICTURES = [random_picture(number) for number in range(3)]

# Runs where the package cannot be imported.
ELSEWHERE = """
import importlib.util, json, sys
from transformers import pipeline
assert importlib.util.find_spec("modeling_tgdt") is None
model, picture, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipe = pipeline("image-text-retrieval", model=model, trust_remote_code=True)
zero_shot = pipeline("zero-shot-image-classification", model=model, trust_remote_code=True)
labels = zero_shot(picture, candidate_labels=texts, hypothesis_template="{}")
print(json.dumps([pipe(picture, texts=texts), labels]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return pipeline(TASK, model=str(folder))


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """(3, 4) mixed similarity of `PICTURES` and `CAPTIONS`."""
    with torch.no_grad():
        batch = tiny_processor()(images=PICTURES, text=CAPTIONS, return_tensors="pt")
        return np.asarray(tiny_model()(**batch).logits_per_image)


def scores_by_index(ranked: list[dict[str, Any]]) -> list[float]:
    assert [hit["score"] for hit in ranked] == sorted((hit["score"] for hit in ranked), reverse=True)
    return [hit["score"] for hit in sorted(ranked, key=lambda hit: hit["index"])]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_texts_for_pictures(pipe: Any, expected: np.ndarray, batch_size: int) -> None:
    assert type(pipe) is ImageTextRetrievalPipeline
    ranked = pipe(PICTURES, texts=CAPTIONS, batch_size=batch_size)
    np.testing.assert_allclose([scores_by_index(own) for own in ranked], expected, atol=1e-5)
    assert all(hit["text"] == CAPTIONS[hit["index"]] for own in ranked for hit in own)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pictures_for_texts(pipe: Any, expected: np.ndarray, batch_size: int) -> None:
    ranked = pipe(CAPTIONS, images=PICTURES, batch_size=batch_size)
    np.testing.assert_allclose([scores_by_index(own) for own in ranked], expected.T, atol=1e-5)
    assert all(hit["image"] is PICTURES[hit["index"]] for own in ranked for hit in own)


def test_one_query_of_every_kind(pipe: Any, expected: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    PICTURES[1].save(path)
    best = int(expected[1].argmax())
    for query in (str(path), path, path.read_bytes(), PICTURES[1], np.asarray(PICTURES[1])):
        (found,) = pipe(query, texts=CAPTIONS, top_k=1)
        assert (found["index"], found["score"]) == (best, pytest.approx(expected[1, best], abs=1e-5))
    streamed = pipe((caption for caption in CAPTIONS), images=[path], top_k=1)
    assert [hits[0]["image"] for hits in streamed] == [path] * 4


def test_regions_are_pictures() -> None:
    model, processor, rng = tiny_model(vision=None), tiny_processor(), np.random.default_rng(0)
    regions = [{"features": rng.normal(size=(size, 16)).astype(np.float32)} for size in (3, 5)]
    pipe = ImageTextRetrievalPipeline(model=model, processor=processor, task=TASK)
    with torch.no_grad():
        logits = model(**processor(regions=regions, text=CAPTIONS, return_tensors="pt")).logits_per_image
    found = [scores_by_index(own) for own in pipe(regions, texts=CAPTIONS)]
    np.testing.assert_allclose(found, logits, atol=1e-5)
    np.testing.assert_allclose(scores_by_index(pipe("sea", images=regions)), logits[:, 2], atol=1e-5)


def test_candidates_without_a_word_score_by_their_global_embedding(pipe: Any) -> None:
    with torch.no_grad():
        batch = tiny_processor()(images=PICTURES[:1], text=["", CAPTIONS[0]], return_tensors="pt")
        logits = tiny_model()(**batch).logits_per_image[0]
    (found,) = pipe(PICTURES[0], texts=[""])
    assert found["score"] == pytest.approx(float(logits[0]), abs=1e-5)
    wordless = ImageTextRetrievalPipeline(model=tiny_model(num_suffix_tokens=2), processor=tiny_processor(), task=TASK)
    found = scores_by_index(wordless(PICTURES[0], texts=["dog", "sea"]))
    with torch.no_grad():
        batch = tiny_processor()(images=PICTURES[:1], text=["dog", "sea"], return_tensors="pt")
        out = wordless.model(**batch)
    np.testing.assert_allclose(found, (out.image_embeds @ out.text_embeds.T)[0].numpy(), atol=1e-5)


def test_options_of_the_constructor_hold_for_every_call(folder: Path, pipe: Any) -> None:
    short = pipeline(TASK, model=str(folder), texts=CAPTIONS, top_k=1)
    (best,) = short(PICTURES[0])
    assert best == pipe(PICTURES[0], texts=CAPTIONS)[0]
    assert short(PICTURES[0], top_k=2) == pipe(PICTURES[0], texts=CAPTIONS, top_k=2)
    assert short(CAPTIONS[0], images=PICTURES) == pipe(CAPTIONS[0], images=PICTURES, top_k=1)
    with pytest.raises(ValueError, match="top_k"):
        pipeline(TASK, model=str(folder), top_k=0)


def test_half_precision(folder: Path, expected: np.ndarray) -> None:
    half = pipeline(TASK, model=str(folder), dtype=torch.bfloat16)
    np.testing.assert_allclose(scores_by_index(half(PICTURES[0], texts=CAPTIONS)), expected[0], atol=0.05)


def test_errors(pipe: Any) -> None:
    with pytest.raises(ValueError, match="Pass one"):
        pipe("sea")
    with pytest.raises(ValueError, match="Pass one"):
        pipe("sea", images=PICTURES, texts=CAPTIONS)
    with pytest.raises(ValueError, match="at least one candidate text"):
        pipe(PICTURES[0], texts=[])
    with pytest.raises(ValueError, match="a list of at least one candidate text, found 'sea'"):
        pipe(PICTURES[0], texts="sea")
    with pytest.raises(ValueError, match="top_k"):
        pipe("sea", images=PICTURES, top_k=0)
    with pytest.raises(TypeError, match="a text as a string, found Image"):
        pipe(PICTURES[0], images=PICTURES)
    with pytest.raises(ValueError, match="0 bytes"):
        pipe(b"", texts=CAPTIONS)


@pytest.mark.slow
def test_as_custom_code(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    PICTURES[0].save(tmp_path / "x.png")
    site = [path for path in sys.path if path.endswith("site-packages")]
    result = subprocess.run(
        [sys.executable, "-S", "-c", ELSEWHERE, "model", "x.png", json.dumps(CAPTIONS)],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": "cache", "PYTHONPATH": os.pathsep.join(site), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found, labels = json.loads(result.stdout.splitlines()[-1])
    assert [label["label"] for label in labels] == [hit["text"] for hit in found]
    assert scores_by_index(found) == pytest.approx(scores_by_index(pipe(PICTURES[0], texts=CAPTIONS)), abs=1e-5)


def test_transformers_own_zero_shot_pipeline(folder: Path, expected: np.ndarray) -> None:
    zero_shot = pipeline("zero-shot-image-classification", model=str(folder))
    found = zero_shot(PICTURES, candidate_labels=CAPTIONS, hypothesis_template="{}")
    shares = torch.from_numpy(expected).softmax(-1).numpy()
    for own, share in zip(found, shares, strict=True):
        assert [hit["label"] for hit in own] == [CAPTIONS[place] for place in np.argsort(-share)]
        assert [hit["score"] for hit in own] == pytest.approx(sorted(share, reverse=True), abs=1e-5)
