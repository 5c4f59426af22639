# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Drawn scenes: the same everywhere, captions true of their image and false of its look-alikes."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import ImageChops

from trainer.scenes import make_scenes, splits
from trainer.scenes.captions import write_captions
from trainer.scenes.dataset import make_sized_scenes
from trainer.scenes.drawing import RGB
from trainer.scenes.layout import (
    COLOURS,
    SHAPES,
    change_scene,
    crowded_look_alikes,
    sample_crowded_scene,
    sample_scene,
)

# An own reading of the language, not the writer's tables.
WORDS = {"ball": "circle", "box": "square", "hoop": "ring", "little": "small", "big": "large"}
THING = re.compile(rf"\ban? (?:(\w+) )?({'|'.join(COLOURS)}) (\w+)")
AXES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "over": (1, -1), "below": (1, 1), "under": (1, 1),
        "top": (1, -1), "bottom": (1, 1)}  # fmt: skip


def centre(region: dict[str, Any]) -> np.ndarray:
    x1, y1, x2, y2 = region["box"]
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2])


def mentions(caption: str, row: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Per thing that the caption names, its region in the scene, or None where there is no such thing."""
    for match in THING.finditer(caption.lower()):
        size, colour, shape = (WORDS.get(word, word) if word else None for word in match.groups())
        fitting = [
            region
            for region in row["regions"]
            if region["label"].endswith(f" {colour} {shape}") and (not size or region["label"].startswith(size))
        ]
        yield fitting[0] if fitting else None


def is_true(caption: str, row: dict[str, Any]) -> bool:
    found = list(mentions(caption, row))
    if len(found) < 2 or any(region is None for region in found):
        return False
    first, second = (centre(region) for region in found[:2])
    # The first direction word is said of the first thing.
    words = [word for word in re.findall(r"\w+", caption.lower()) if word in AXES]
    axis, sign = AXES[words[0]]
    return bool((first - second)[axis] * sign > 0)


@pytest.fixture(scope="module", params=["plain", "crowded"])
def scenes(request: pytest.FixtureRequest) -> Dataset:
    return make_scenes(120, seed=5, distractors=3, crowded=request.param == "crowded")


def test_the_same_seed_gives_the_same_data(scenes: Dataset) -> None:
    crowded = max(map(len, scenes["regions"])) > 3
    again, other = (make_scenes(120, seed=seed, distractors=3, crowded=crowded) for seed in (5, 6))
    for first, second in zip(scenes, again, strict=True):
        assert ImageChops.difference(first.pop("image"), second.pop("image")).getbbox() is None
        assert first == second
    assert scenes["captions"] != other["captions"]


@pytest.mark.parametrize(
    ("seed", "options", "digest"),
    [(1, {}, "9de768ebf98037aa"), (5, {"distractors": 3}, "0cb0723e496a2712")],
)
def test_plain_scenes_are_those_of_the_published_figures(seed: int, options: dict[str, Any], digest: str) -> None:
    found = hashlib.sha256()
    for row in make_scenes(24, seed, **options):
        found.update(json.dumps([row["captions"], row["change"], row["regions"]]).encode())
    assert found.hexdigest()[:16] == digest


def test_captions_are_true_and_different(scenes: Dataset) -> None:
    for row in scenes:
        assert 3 <= len(row["captions"]) <= 5 and len(set(row["captions"])) == len(row["captions"])
        for caption in row["captions"]:
            assert is_true(caption, row), (caption, row["regions"])
            assert caption[0].isupper() and caption.endswith(".")


def test_captions_are_false_of_every_look_alike(scenes: Dataset) -> None:
    rows = list(scenes.remove_columns("image"))
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["group_id"] for row in group}) == 1
        for row, other in itertools.permutations(group, 2):
            assert not any(is_true(caption, other) for caption in row["captions"]), (row, other)


def test_look_alikes_differ_in_exactly_one_detail(scenes: Dataset) -> None:
    rows = {row["image_id"]: row for row in scenes}
    crowded = max(map(len, scenes["regions"])) > 3
    for row in scenes:
        base = rows[row["group_id"]]
        assert (row["change"] == "") == (row["image_id"] == row["group_id"])
        if crowded and row["change"] == "colours":
            continue  # of all things: below
        assert row["regions"][2:] == base["regions"][2:]
        (ours, theirs) = ([[*region["label"].split(), *centre(region).tolist()] for region in one["regions"][:2]]
                          for one in (row, base))  # fmt: skip
        replaced = {"colour": [1], "shape": [2]}.get(row["change"], [])
        swapped = {"sizes": [0], "colours": [1], "relation": [3, 4]}.get(row["change"], [])
        for field in range(5):
            a, b = theirs[0][field], theirs[1][field]
            if field in replaced:
                assert ours[0][field] not in {region["label"].split()[field] for region in base["regions"]}
                a = ours[0][field]
            expected = (b, a) if field in swapped else (a, b)
            assert (ours[0][field], ours[1][field]) == pytest.approx(expected, abs=0.02)


def test_things_have_their_colour_inside_their_box_and_never_overlap() -> None:
    plain, crowded = (make_scenes(24, 1, image_size=192, distractors=2, crowded=crowded) for crowded in (False, True))
    for row in itertools.chain(plain, crowded, make_sized_scenes(24, 1, image_size=192)):
        image = np.asarray(row["image"]).astype(float)
        boxes = [region["box"] for region in row["regions"]]
        assert image.shape == (192, 192, 3) and all(0 <= side <= 192 for box in boxes for side in box)
        for region, (x1, y1, x2, y2) in zip(row["regions"], boxes, strict=True):
            _, colour, shape = region["label"].split()
            patch = image[round(y1) : round(y2), round(x1) : round(x2)]
            close = np.abs(patch - RGB[colour]).max(-1) < 60
            assert close.mean() > 0.25, region
        centres = [centre(region) for region in row["regions"]]
        radii = [(box[2] - box[0]) / 2 for box in boxes]
        for one in range(len(boxes)):
            for two in range(one):
                assert np.linalg.norm(centres[one] - centres[two]) > radii[one] + radii[two]


def test_sized_scenes_differ_in_the_size_of_the_third_thing_and_captions_tell_it() -> None:
    scenes = list(make_sized_scenes(40, seed=3, image_size=32).remove_columns("image"))
    for row, other in zip(scenes[::2], scenes[1::2], strict=True):
        assert (row["change"], other["change"], row["group_id"]) == ("", "size", other["group_id"])
        assert row["regions"][:2] == other["regions"][:2]
        (size, kind), (other_size, other_kind) = (one["regions"][2]["label"].split(maxsplit=1) for one in (row, other))
        assert kind == other_kind and {size, other_size} == {"small", "large"}
        np.testing.assert_allclose(centre(row["regions"][2]), centre(other["regions"][2]), atol=0.02)
        for one, another in ((row, other), (other, row)):
            assert all(is_true(caption, one) and not is_true(caption, another) for caption in one["captions"])
    assert {row["regions"][2]["label"].split()[0] for row in scenes[::2]} == {"small", "large"}  # the first, too


def test_a_split_may_have_sized_pairs_after_the_plain_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": (6, 0, 1), "validation": (4, 1, 1)}
    monkeypatch.setattr(splits, "DRAWN", {"scenes": sizes, "scenes_sized": sizes})
    monkeypatch.setattr(splits, "_SIZED", (4, 2))
    plain, train = (splits.draw_split(name, "train") for name in ("scenes", "scenes_sized"))
    assert train["captions"][:6] == plain["captions"] and len(plain) == 6
    assert len(set(train["image_id"])) == 10 and train["change"].count("size") == 2
    assert len(splits.draw_split("scenes_sized", "validation")) == 4


def test_counts_and_columns() -> None:
    scenes = make_scenes(7, seed=0, image_size=32, captions_per_image=2, distractors=1)
    assert len(scenes) == 7 and all(len(captions) == 2 for captions in scenes["captions"])
    assert scenes["image_id"][:3] == ["scene-00000", "scene-00001", "scene-00002"]
    assert scenes["group_id"][:3] == ["scene-00000", "scene-00000", "scene-00002"]
    assert set(make_scenes(5, distractors=0, image_size=32)["change"]) == {""}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "num_images in 1..6000, found 0"),
        ({"num_images": 4, "image_size": 8}, "image_size in 16..1024 pixels, found 8"),
        ({"num_images": 4, "distractors": 4}, "distractors in 0..3 per scene, found 4"),
        ({"num_images": 4, "distractors": 30, "crowded": True}, "distractors in 0..29 per scene, found 30"),
        ({"num_images": 4, "captions_per_image": 0}, "1 to 16 captions per scene, found 0"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scenes(**options)


def test_every_scene_has_sixteen_captions_and_every_shape_a_picture() -> None:
    random = Random(0)
    for _ in range(50):
        assert len(set(write_captions(sample_scene(random), 16, random))) == 16
    assert len(SHAPES) == len(COLOURS) == len(RGB) == 7
    with pytest.raises(ValueError, match="'mirror'"):
        change_scene(sample_scene(random), "mirror")


def test_things_of_crowded_scenes_share_colours_and_shapes() -> None:
    random = Random(1)
    scenes = [sample_crowded_scene(random) for _ in range(60)]
    assert {len(scene.things) for scene in scenes} == {3, 4, 5}
    for scene in scenes:
        kinds = {(thing.colour, thing.shape) for thing in scene.things}
        assert len(kinds) == len(scene.things) > min(len({part[side] for part in kinds}) for side in (0, 1)) - 1
        assert len(set(write_captions(scene, 8, random, with_others=True))) == 8
    crowded = [scene for scene in scenes if len(scene.things) == 5]
    assert all(len({thing.colour for thing in scene.things}) <= 4 for scene in crowded)


def test_colours_of_crowded_scenes_change_places() -> None:
    random = Random(2)
    for scene in [sample_crowded_scene(random) for _ in range(40)]:
        looks = crowded_look_alikes(scene, 29, random)
        changes = [change for change, _ in looks]
        assert sorted(set(changes)) == ["colour", "colours", "relation", "shape", "sizes"] and len(looks) <= 29
        assert changes.count("colours") == len(looks) - 4
        kinds = [frozenset((thing.colour, thing.shape) for thing in one.things) for one in (scene, *(
            look for change, look in looks if change == "colours"))]  # fmt: skip
        assert len(set(kinds)) == len(kinds) and all(len(kind) == len(scene.things) for kind in kinds)
        for change, look in looks:
            if change == "colours":
                assert sorted(t.colour for t in look.things) == sorted(t.colour for t in scene.things)
                without = [replace(thing, colour="") for thing in look.things]
                assert without == [replace(thing, colour="") for thing in scene.things]


def test_a_gallery_of_crowded_scenes_has_many_look_alikes_and_true_captions() -> None:
    scenes = make_scenes(60, 3, image_size=32, captions_per_image=2, distractors=29, crowded=True)
    groups = [
        list(group) for _, group in itertools.groupby(scenes.remove_columns("image"), key=lambda r: r["group_id"])
    ]
    assert max(map(len, groups)) > 10
    for group in groups:
        for row, other in itertools.product(group, group):
            truth = [is_true(caption, other) for caption in row["captions"]]
            assert truth == [row is other] * 2, (row, other)
