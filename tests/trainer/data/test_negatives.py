"""Columns of hard negatives: every form they come in, and what an example makes of them."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.trainer.tiny import photo_folder
from trainer.data.caption_dataset import CaptionDataset, IterableCaptionDataset
from trainer.data.skip_report import SkipReport
from trainer.datasets import load_captions
from trainer.images import UnreadableImageError

ROWS: list[dict[str, Any]] = [
    {"file_name": "photo0000.jpg", "caption": "a cat", "negative_captions": ["a dog"],
     "negative_images": ["photo0001.jpg"]},
    {"file_name": "photo0000.jpg", "caption": "a pet", "negative_captions": ["a bird", ""],
     "negative_images": ["photo0002.jpg"]},
    {"file_name": "photo0001.jpg", "caption": "a dog", "negative_captions": None, "negative_images": []},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photo_folder(tmp_path, 3)
    return tmp_path


def write(folder: Path, **more: list[Any]) -> Path:
    rows = [row | {name: values[number] for name, values in more.items()} for number, row in enumerate(ROWS)]
    path = folder / "captions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("ids", [None, ["7", "7", "8"]])
def test_file_names_of_caption_wise_rows(folder: Path, ids: list[str] | None) -> None:
    photos = load_captions(write(folder, **({} if ids is None else {"image_id": ids})))
    assert photos["negative_captions"][:] == [["a dog", "a bird"], []]
    assert photos["negative_image_ids"][:] == [["photo0001.jpg" if ids is None else "8"], []]
    first, second = CaptionDataset(photos)[0], CaptionDataset(photos)[2]
    assert [image.size for image in first["negative_images"]] == [(40, 30)]
    assert first["negative_images"][0].tobytes() == second["image"].tobytes()
    assert second["negative_images"] == [] and first["negative_captions"] == ["a dog", "a bird"]
    assert load_captions(photos)["negative_captions"][:] == photos["negative_captions"][:]  # canonical already


def test_embedded_pictures_survive_parquet_and_streams(folder: Path) -> None:
    photos = load_captions(write(folder))
    photos.to_parquet(folder / "train.parquet")
    again = load_captions(folder / "train.parquet")
    stream = load_captions(folder / "train.parquet", streaming=True)
    for examples in (list(CaptionDataset(again)), list(IterableCaptionDataset(stream, captions_per_image="all"))):
        assert [len(example["negative_images"]) for example in examples] == [1, 1, 0]
        assert examples[0]["negative_images"][0].size == (40, 30)
        assert examples[1]["negative_image_ids"] == ["photo0001.jpg"]
    raw = load_captions(folder / "captions.jsonl", streaming=True, image_root=folder)
    assert [len(example["negative_images"]) for example in IterableCaptionDataset(raw)] == [1, 1, 0]


def test_one_negative_caption_per_row_of_a_delimited_file(folder: Path) -> None:
    path = folder / "captions.csv"
    path.write_text("file_name,caption,negative_caption\nphoto0000.jpg,a cat,a dog\nphoto0001.jpg,a dog,\n")
    assert load_captions(path)["negative_captions"][:] == [["a dog"], []]


@pytest.mark.parametrize("on_error", ["skip", "placeholder"])
def test_unreadable_negative_images_are_left_out_and_listed(folder: Path, on_error: Any) -> None:
    (folder / "photo0001.jpg").write_bytes(b"no picture")
    photos = load_captions(write(folder)).select([0])
    report = SkipReport()
    example = CaptionDataset(photos, on_error=on_error, report=report)[0]
    assert example["negative_images"] == [] and example["negative_image_ids"] == []
    assert [name for name, _ in report.items] == ["negative image 0 of photo photo0000.jpg"]
    with pytest.raises(UnreadableImageError, match="Negative image 0 of photo photo0000.jpg cannot be read"):
        CaptionDataset(photos)[0]


def test_ids_that_do_not_fit_their_images_are_refused(folder: Path) -> None:
    photos = load_captions(write(folder, negative_image_ids=[["1", "2"], [], []]))
    with pytest.raises(ValueError, match="1 negative_images and 2 negative_image_ids"):
        CaptionDataset(photos)[0]


def test_augmentation_reaches_negative_images(folder: Path) -> None:
    examples = CaptionDataset(load_captions(write(folder)), transform=lambda image: image.resize((5, 5)))
    assert examples[0]["image"].size == examples[0]["negative_images"][0].size == (5, 5)


def test_pictures_may_be_named_in_a_table_of_pictures(folder: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"image": [str(folder / "photo0000.jpg")], "captions": [["a cat"]], "negative_images": [["photo0001.jpg"]]}
    ).cast_column("image", datasets.Image())
    (example,) = CaptionDataset(load_captions(table, image_root=folder))
    assert example["negative_images"][0].size == (40, 30) and example["negative_image_ids"] == ["photo0001.jpg"]
