# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Word-to-region alignments against the model's own tokens, and their pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig

from modeling_tgdt.drawing.overlay import fit_text, heat_map
from modeling_tgdt.explain_tgdt import Alignment, explain, visible_box
from modeling_tgdt.processing_tgdt import TGDTProcessor
from tests.modeling_tgdt.test_processing_tgdt import word_pieces
from tests.tiny_retrieval import random_picture, tiny_model, tiny_processor, tiny_retriever

TEXT = "a red ball , on a box"


def test_the_matrix_gives_the_local_score() -> None:
    made, picture = tiny_retriever(), random_picture(1)
    made.add_images([picture], progress=False)
    alignment = made.explain(picture, TEXT)
    assert alignment.words == TEXT.split()
    assert alignment.matrix.shape == (7, 16)
    assert alignment.grid == (4, 4)
    assert alignment.best_region.tolist() == alignment.matrix.argmax(1).tolist()
    assert alignment.best_score.mean() == pytest.approx(made.search(TEXT)[0].local_score, abs=1e-3)


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_word_pieces_are_merged(merge: str) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "##er", "ball"]
    processor = TGDTProcessor(tiny_processor().image_processor, word_pieces(pieces))
    model, picture = tiny_model(), random_picture(2)
    alignment = explain(model, processor, picture, "lower ball", merge=merge)  # type: ignore[arg-type]
    assert alignment.words == ["lower", "ball"]
    batch = processor(text=["lower ball"], images=[picture], return_tensors="pt")
    with torch.no_grad():
        out = model(**batch)
    cosines = (out.text_token_embeds[0] @ out.image_token_embeds[0].T).numpy()
    merged = cosines[1:3].mean(0) if merge == "mean" else cosines[1:3].max(0)
    np.testing.assert_allclose(alignment.matrix, np.stack([merged, cosines[3]]), atol=1e-5)


def test_cells_of_a_feature_map(tmp_path: Path) -> None:
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_channels=3)
    alignment = explain(tiny_model(vision=vision), tiny_processor(), random_picture(3, (60, 30)), "red ball")
    assert alignment.grid is not None
    assert alignment.grid[0] * alignment.grid[1] == alignment.matrix.shape[1] > 1
    alignment.save(tmp_path / "x.png", panel_width=100)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.width >= 100


def test_detector_boxes_with_and_without_a_picture() -> None:
    rng, model = np.random.default_rng(0), tiny_model(vision=None)
    boxes = np.array([[0, 0, 40, 50], [30, 10, 90, 45], [5, 5, 99, 49]])
    regions = {"features": rng.normal(size=(3, 16)), "boxes": boxes, "image_size": (50, 100)}
    alignment = explain(model, tiny_processor(), regions, "red ball")
    assert alignment.grid is None
    np.testing.assert_allclose(alignment.boxes, boxes / [100, 50, 100, 50], atol=1e-6)
    assert alignment.picture is not None
    assert alignment.picture.width == 2 * alignment.picture.height
    shown = explain(model, tiny_processor(), regions, "red ball", picture=random_picture(0, (100, 50)))
    assert shown.to_image().size == alignment.to_image().size
    unknown = explain(model, tiny_processor(), {"features": regions["features"]}, "red ball")
    with pytest.raises(ValueError, match="Pass their boxes"):
        unknown.to_image()


def test_a_centre_crop_moves_the_grid() -> None:
    options = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    processor = tiny_processor(**options)
    assert visible_box(processor.image_processor, (200, 100)) == (0.25, 0.0, 0.75, 1.0)
    alignment = explain(tiny_model(), processor, random_picture(4, (200, 100)), "sea")
    assert alignment.boxes is not None
    np.testing.assert_allclose(
        [alignment.boxes[0], alignment.boxes[-1]], [[0.25, 0, 0.375, 0.25], [0.625, 0.75, 0.75, 1]]
    )
    alignment.to_image()


def test_heat_maps() -> None:
    boxes = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], np.float32)
    values = np.array([0.1, 0.9], np.float32)
    plain = heat_map(values, boxes, None, (10, 4))
    assert plain[:, :5].max() == 0 and plain[:, 5:].min() == 1
    smooth = heat_map(values, boxes, (1, 2), (10, 4))
    assert smooth.shape == (4, 10)
    assert (np.diff(smooth[0]) >= 0).all() and smooth[0, 0] < 0.1 and smooth[0, -1] > 0.9
    equal = heat_map(np.ones(2, np.float32), boxes, None, (10, 4))
    assert equal.min() == 1
    assert heat_map(values, boxes, None, (10, 4), (0.0, 1.8)).max() == pytest.approx(0.5)
    assert heat_map(values, boxes, None, (10, 4), (0.2, 0.5)).max() == 1


def test_the_best_region_is_hottest_on_the_sheet() -> None:
    matrix = np.array([[0.0, 1.0, 0.0, 0.0]], np.float32)
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]])
    alignment = Alignment(matrix, ["ball"], boxes, (2, 2), Image.new("RGB", (50, 50), "grey"))
    sheet = np.asarray(alignment.to_image(panel_width=100, columns=2), dtype=int)
    panel = sheet[30:130, 112:212]
    warmth = panel[..., 0] - panel[..., 2]
    assert warmth[15:35, 65:85].mean() > 60 > warmth[65:85, 15:35].mean()


def test_one_scale_of_colours_for_a_caption_and_pale_words_without_content() -> None:
    matrix = np.array([[0.0, 1.0], [0.0, 0.2], [0.0, 1.0]], np.float32)
    boxes = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    alignment = Alignment(matrix, ["ball", "sea", "the"], boxes, None, Image.new("RGB", (50, 50), "grey"))
    sheet = np.asarray(alignment.to_image(panel_width=100, columns=4), dtype=int)
    ball, sea, the = (sheet[30:130, left : left + 100] for left in (112, 218, 324))
    warmth = [float((panel[20:80, 60:90, 0] - panel[20:80, 60:90, 2]).mean()) for panel in (ball, sea, the)]
    assert warmth[0] > 2 * abs(warmth[1]) and warmth[0] > 2 * warmth[2] > 0
    assert the.min() > ball.min() + 60
    framed = [bool((panel[:2, 50:] == 255).all()) for panel in (ball, sea, the)]
    assert framed == [True, True, False]


def test_pictures_of_every_kind_are_drawn() -> None:
    made = tiny_retriever()
    kinds = [
        random_picture(0).convert("RGBA"),
        random_picture(0).convert("L"),
        np.asarray(random_picture(0)),
        np.zeros((1, 1, 3), np.uint8),
        np.full((3, 9, 8), 0.5, np.float32),
        torch.zeros(3, 9, 8, dtype=torch.uint8),
        np.zeros((9, 8, 1), np.uint8),
    ]
    for picture in kinds:
        assert made.explain(picture, "sea").to_image().mode == "RGB"


def test_errors() -> None:
    made = tiny_retriever()
    with pytest.raises(ValueError, match="one word to explain"):
        made.explain(random_picture(0), " ")
    with pytest.raises(TypeError, match="one text"):
        made.explain(random_picture(0), ["sea"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="merge"):
        made.explain(random_picture(0), "sea", merge="sum")
    with pytest.raises(ValueError, match="0 bytes"):
        made.explain(b"", "sea")


def test_long_captions_are_shortened() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(15)
    assert fit_text("sea", font, 100) == "sea"
    short = fit_text("a very long word" * 9, font, 100)
    assert short.endswith("...") and font.getlength(short) <= 100
