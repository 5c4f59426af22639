# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The tower: what training on labels does, and the weights that come with the package."""

import json

import pytest
import torch
from transformers import AutoModel

from modeling_tgdt import TGDTModel, TGDTProcessor
from trainer.recipe import load_recipe
from trainer.run import build, load_pretrained
from trainer.scenes import make_scenes
from trainer.scenes.layout import SHAPES
from trainer.scenes.tower import LABELS, _features, _pixels, _things, grid_centres, pretrain_tower
from trainer.scenes.weights import FOLDER, MODEL, TOWER, make_tower, shipped

TINY = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def test_things_are_read_from_the_cell_at_their_centre() -> None:
    scenes = make_scenes(4, 3, image_size=64)
    for row, things in zip(scenes, _things(scenes), strict=True):
        for region, (x, y, *labels) in zip(row["regions"], things.tolist(), strict=True):
            names = [names[int(number)] for names, number in zip(LABELS.values(), labels, strict=True)]
            assert " ".join(names) == region["label"]
            x1, y1, x2, y2 = region["box"]
            assert (64 * x, 64 * y) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=1e-3)
    assert grid_centres(4).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_training_learns_and_a_seed_repeats() -> None:
    scenes = make_scenes(24, 3, image_size=32)
    towers, right = zip(
        *(pretrain_tower(TINY, scenes, image_size=32, steps=12, seed=5) for _ in range(2)), strict=True
    )
    assert right[0] == right[1] and set(right[0]) == {"size", "colour", "shape"}
    for one, two in zip(*(tower.state_dict().values() for tower in towers), strict=True):
        assert torch.equal(one, two)
    assert right[0]["colour"] > 2 / 7 and not towers[0].training


def test_the_command_writes_tower_and_record(tmp_path) -> None:
    make_tower(tmp_path, 1, scenes=4, steps=1)
    record = json.loads((tmp_path / "scenes-tower/record.json").read_text())
    assert record["commands"] == ["python -m trainer.scenes.weights tower --seed 1"] and record["steps"] == 1
    assert AutoModel.from_pretrained(tmp_path / "scenes-tower").dtype == torch.float16


def test_the_shipped_tower_tells_shapes_it_never_saw() -> None:
    """A linear probe on one half of new scenes reads shapes of the other half, which guessing gets right in 14 %."""
    scenes = make_scenes(120, 9)
    features = _features(AutoModel.from_pretrained(shipped(TOWER), dtype=torch.float32), _pixels(scenes, 96))
    rows, labels = [], []
    for row, things in enumerate(_things(scenes)):
        cells = torch.cdist(things[:, :2], grid_centres(features.shape[1])).argmin(1)
        rows.append(features[row, cells].detach())
        labels.append(things[:, -1].long())
    x, y = torch.cat(rows), torch.cat(labels)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    gram = x[::2].T @ x[::2] + 0.1 * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x[::2].T @ torch.nn.functional.one_hot(y[::2], len(SHAPES)).float())
    assert float(((x[1::2] @ weights).argmax(1) == y[1::2]).float().mean()) > 0.8


def test_recipes_start_from_what_is_shipped() -> None:
    recipe = load_recipe("scenes")
    model, _ = build(recipe, {"captions": [["a red star"]]})
    tower = AutoModel.from_pretrained(shipped(TOWER), dtype=torch.float32).state_dict()
    assert all(torch.equal(tower[name], value) for name, value in model.vision_model.state_dict().items())


def test_what_is_shipped_is_small_and_known() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 5_000_000
    for name in (TOWER, MODEL):
        record = json.loads((FOLDER / name.removeprefix("tgdt:") / "record.json").read_text())
        assert record["commands"][0].startswith(("python -m trainer.scenes.weights ", "tgdt train "))
    with pytest.raises(ValueError, match="'tgdt:x': expected 'tgdt:scenes-tower' or 'tgdt:scenes-model'"):
        shipped("tgdt:x")
    model, processor = load_pretrained(MODEL, load_recipe("scenes"))
    assert isinstance(model, TGDTModel) and isinstance(processor, TGDTProcessor) and model.dtype == torch.float32
