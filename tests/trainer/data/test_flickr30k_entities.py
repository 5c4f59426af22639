# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The format of Flickr30k Entities, on a made-up photo whose files have every case of the real ones."""

from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.scenes_model import processor, tiny_model
from trainer import evaluate_grounding
from trainer.data.flickr30k_entities import is_flickr30k_entities, load_flickr30k_entities

SENTENCES = """\
[/EN#1/people A man] in [/EN#2/clothing a red shirt] plays with [/EN#3/people/animals two dogs] .
[/EN#0/notvisual It] is [/EN#4/scene the beach] .
"""
ANNOTATION = """\
<annotation><filename>7.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>31</xmax><ymax>40</ymax></bndbox></object>
<object><name>2</name><name>9</name><bndbox><xmin>5</xmin><ymin>8</ymin><xmax>20</xmax><ymax>22</ymax></bndbox></object>
<object><name>3</name><bndbox><xmin>40</xmin><ymin>10</ymin><xmax>50</xmax><ymax>20</ymax></bndbox></object>
<object><name>3</name><bndbox><xmin>50</xmin><ymin>20</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
<object><name>4</name><scene>1</scene></object>
<object><name>5</name><nobndbox>1</nobndbox></object>
</annotation>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("Sentences/7.txt", SENTENCES), ("Annotations/7.xml", ANNOTATION), ("test.txt", "7\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    Image.new("RGB", (60, 40), "green").save(tmp_path / "7.jpg")
    return tmp_path


@pytest.mark.parametrize("split", [None, "test"])
def test_captions_things_and_phrases(folder: Path, split: str | None) -> None:
    assert is_flickr30k_entities(folder) and not is_flickr30k_entities(folder / "Sentences")
    (row,) = load_flickr30k_entities(folder, folder, split)
    assert row["captions"] == ["A man in a red shirt plays with two dogs .", "It is the beach ."]
    assert row["image"].size == (60, 40) and row["image_id"] == "7"
    man, shirt, same_shirt, dogs = row["things"]
    assert man == [[1, 2, 31, 40]] and shirt == same_shirt == [[5, 8, 20, 22]]
    assert dogs == [[40, 10, 50, 20], [50, 20, 60, 40]]
    first, second = row["phrases"]
    named = [(row["captions"][0][one["start"] : one["end"]], one["kind"], one["things"]) for one in first]
    assert named == [("A man", "people", [0]), ("a red shirt", "clothing", [1]), ("two dogs", "people", [3])]
    assert second == []  # the beach has no box, and "It" is nothing to see


def test_grounding_reads_it(folder: Path) -> None:
    found = evaluate_grounding(tiny_model(), processor(), load_flickr30k_entities(folder, folder))
    assert set(found) <= {"people", "clothing", "all"} and found["all"]["words"] == sum(
        found[kind]["words"] for kind in found if kind != "all"
    )


def test_refusals(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected val.txt .* found \['test'\]"):
        load_flickr30k_entities(folder, folder, "val")
    (folder / "Annotations/7.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"7.xml is not an annotation file"):
        load_flickr30k_entities(folder, folder)
    (folder / "Annotations/7.xml").unlink()
    with pytest.raises(ValueError, match="Photo 7 needs .*7.xml"):
        load_flickr30k_entities(folder, folder)
    (folder / "Sentences/7.txt").unlink()
    with pytest.raises(ValueError, match="found none"):
        load_flickr30k_entities(folder, folder)
