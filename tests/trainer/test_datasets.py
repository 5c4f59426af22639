"""load_captions: every format on generated data, one canonical result."""

import base64
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from tests.trainer.tiny import caption_of, photo_folder, photo_rows
from trainer.data.caption_dataset import CaptionDataset, IterableCaptionDataset
from trainer.data.columns import find_columns
from trainer.data.region_features import open_region_store
from trainer.data.skip_report import SkipReport
from trainer.data.splits import NoSplitError
from trainer.datasets import load_captions

IDS = ["photo0000", "photo0001", "photo0002"]
CAPTIONS = [[caption_of(number, version) for version in range(2)] for number in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photo_folder(tmp_path, 3)
    return tmp_path


def caption_rows() -> list[dict[str, Any]]:
    return [
        {"file_name": f"{photo}.jpg", "caption": caption, "image_id": photo}
        for photo, captions in zip(IDS, CAPTIONS, strict=True)
        for caption in captions
    ]


def check(dataset: datasets.Dataset, ids: list[str] | None = None) -> None:
    assert set(dataset.column_names) == {"image", "captions", "image_id"}
    assert dataset["captions"][:] == CAPTIONS
    assert dataset["image_id"][:] == (ids or IDS)
    assert dataset[1]["image"].size == (40, 30)


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_jsonl_of_captions(folder: Path) -> None:
    check(load_captions(write_lines(folder / "captions.jsonl", caption_rows())))


def test_folder_with_captions_file(folder: Path) -> None:
    write_lines(folder / "captions.jsonl", caption_rows())
    check(load_captions(folder))


@pytest.mark.parametrize("mark", [",", "|", "\t"])
def test_delimited_files(folder: Path, mark: str) -> None:
    header = mark.join(["image", "comment"])
    rows = [mark.join([f" {row['file_name']}", row["caption"]]) for row in caption_rows()]
    ids = [f"{photo}.jpg" for photo in IDS]
    check(load_captions(write_lines(folder / "captions.csv", [header, *rows])), ids)


def test_unquoted_commas_stay_in_the_caption(folder: Path) -> None:
    path = write_lines(folder / "captions.txt", ["image,caption", "photo0000.jpg,a red, old, square"])
    assert load_captions(path)["captions"][:] == [["a red, old, square"]]


def test_token_file(folder: Path) -> None:
    check(load_captions(token_file(folder)))


def test_parquet_with_embedded_pictures(folder: Path) -> None:
    rows = photo_rows(folder, 3)
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(folder / "validation.parquet")
    check(load_captions(folder / "validation.parquet"))
    check(load_captions(folder / "validation.parquet", split="validation"))
    stream = load_captions(folder / "validation.parquet", streaming=True)
    assert [row["captions"] for row in stream] == CAPTIONS
    with pytest.raises(ValueError, match="expected a column 'split' or a split in the file's name"):
        load_captions(folder / "validation.parquet", split="test")


def test_embedded_pictures_once_per_caption(folder: Path) -> None:
    rows = caption_rows()
    table = {
        "image": [str(folder / row["file_name"]) for row in rows],
        "text": [row["caption"] for row in rows],
        "id": [row["image_id"] for row in rows],
    }
    check(load_captions(datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())))


def test_numbered_caption_columns(folder: Path) -> None:
    rows = [
        {"file_name": f"{photo}.jpg", "caption_0": two[0], "caption_1": two[1], "id": photo}
        for photo, two in zip(IDS, CAPTIONS, strict=True)
    ]
    check(load_captions(write_lines(folder / "table.jsonl", rows)))


def test_split_column(folder: Path) -> None:
    rows = [{**row, "split": "test" if row["image_id"] == IDS[2] else "train"} for row in caption_rows()]
    path = write_lines(folder / "table.jsonl", rows)
    assert load_captions(path, split="test")["image_id"][:] == IDS[2:]
    with pytest.raises(ValueError, match="Did you mean 'test'"):
        load_captions(path, split="tst")


@pytest.mark.parametrize("name", ["retrieval.jsonl", "latest.jsonl", "captions_val_test.jsonl", "validation.jsonl"])
def test_the_split_column_decides_whatever_the_name(folder: Path, name: str) -> None:
    splits = dict(zip(IDS, ("train", "val", "test"), strict=True))
    path = write_lines(folder / name, [{**row, "split": splits[row["image_id"]]} for row in caption_rows()])
    table = load_captions(path)
    for split, photo in (("train", IDS[0]), ("val", IDS[1]), ("validation", IDS[1]), ("test", IDS[2])):
        assert load_captions(path, split)["image_id"][:] == [photo]
    assert table["image_id"][:] == IDS
    unsplit = datasets.Dataset.from_json(str(path))
    assert load_captions(unsplit, "val", image_root=folder)["image_id"][:] == IDS[1:2]
    only_train = datasets.DatasetDict({"train": unsplit})
    assert load_captions(only_train, "test", image_root=folder)["image_id"][:] == IDS[2:]


@pytest.mark.parametrize(
    ("stem", "split", "is_named"),
    [
        ("captions_val2017", "validation", True),
        ("Photos-Train", "train", True),
        ("photos_test_1k", "test_1k", True),
        ("retrieval", "val", False),
        ("latest", "test", False),
        ("trainval", "train", False),
        ("captions_train_val", "train", False),
    ],
)
def test_a_file_is_of_the_split_that_its_name_says_as_a_word(
    folder: Path, stem: str, split: str, is_named: bool
) -> None:
    path = write_lines(folder / f"{stem}.jsonl", caption_rows())
    if is_named:
        check(load_captions(path, split))
        return
    with pytest.raises(NoSplitError, match="captions_train.csv and captions_validation.csv"):
        load_captions(path, split)


def token_file(folder: Path) -> Path:
    rows = [f"{row['file_name']}#{number % 2}\t{row['caption']}" for number, row in enumerate(caption_rows())]
    return write_lines(folder / "Flickr8k.token.txt", rows)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_data_without_splits_have_none(folder: Path, split: str) -> None:
    table = datasets.Dataset.from_dict(photo_rows(folder, 3))
    sources = [table, table.to_iterable_dataset(), token_file(folder), coco(folder, "captions"), folder / "plain"]
    photo_folder(folder / "plain", 3)
    write_lines(folder / "plain/captions.jsonl", caption_rows())
    for source in sources:
        with pytest.raises(NoSplitError, match=f"has no split '{split}'"):
            load_captions(source, split)
    check(load_captions(coco(folder, f"captions_{split}2017"), split), ["0", "1", "2"])


def test_a_folder_with_a_captions_file_per_split(folder: Path) -> None:
    for name, rows in (("train", caption_rows()[:4]), ("val", caption_rows()[4:])):
        write_lines(folder / f"captions_{name}.jsonl", rows)
    assert load_captions(folder, "train")["image_id"][:] == IDS[:2]
    for split in ("val", "validation"):
        assert load_captions(folder, split)["image_id"][:] == IDS[2:]


def karpathy(folder: Path, coco: bool = False) -> Path:
    splits = ["train", "restval", "test"]
    images = [
        {
            "filename": f"{photo}.jpg",
            "imgid": number,
            "split": splits[number],
            "sentences": [{"raw": caption} for caption in CAPTIONS[number]],
            **({"cocoid": 100 + number, "filepath": "."} if coco else {}),
        }
        for number, photo in enumerate(IDS)
    ]
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "generated"}))
    return path


def test_karpathy_json(folder: Path) -> None:
    path = karpathy(folder)
    check(load_captions(path))
    assert load_captions(path, "train")["image_id"][:] == IDS[:2]
    assert load_captions(path, "train", restval=False)["image_id"][:] == IDS[:1]
    assert load_captions(karpathy(folder, coco=True))["image_id"][:] == ["100", "101", "102"]
    with pytest.raises(ValueError, match="Did you mean 'test'"):
        load_captions(path, "tset")


def coco(folder: Path, stem: str) -> Path:
    content = {
        "images": [{"id": number, "file_name": f"{photo}.jpg"} for number, photo in enumerate(IDS)],
        "annotations": [
            {"id": 10 * number + version, "image_id": number, "caption": caption}
            for version in range(2)
            for number, caption in enumerate(c[version] for c in CAPTIONS)
        ],
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_captions_json(folder: Path) -> None:
    check(load_captions(coco(folder, "captions_val")), ["0", "1", "2"])


REGIONS = [np.random.default_rng(number).random((3 + number, 8)).astype(np.float32) for number in range(3)]
BOXES = [np.array([[0, 0, 20 + r, 15] for r in range(len(regions))], np.float32) for regions in REGIONS]


def check_regions(dataset: datasets.Dataset, boxes: bool = True) -> None:
    assert dataset["captions"][:] == CAPTIONS
    for number, row in enumerate(CaptionDataset(dataset, captions_per_image="one")):
        np.testing.assert_array_equal(row["region_features"], REGIONS[number])
        if boxes:
            expected = (BOXES[number] / np.array([40, 30, 40, 30.0])).astype(np.float32)
            np.testing.assert_array_equal(row["region_boxes"], expected)
    assert ("region_boxes" in dataset.column_names) == boxes


@pytest.mark.parametrize("key", ["number", "stem"])
def test_bottom_up_npz_with_sizes_from_pictures(folder: Path, key: str) -> None:
    for sub in ("bu_att", "bu_box"):
        (folder / "features" / sub).mkdir(parents=True)
    for number, photo in enumerate(IDS):
        name = str(number) if key == "number" else photo
        np.savez(folder / "features" / "bu_att" / f"{name}.npz", feat=REGIONS[number])
        np.save(folder / "features" / "bu_box" / f"{name}.npy", BOXES[number])
    check_regions(load_captions(karpathy(folder), features=folder / "features"))


def test_bottom_up_tsv(folder: Path) -> None:
    lines = [
        "\t".join(
            [photo, "40", "30", str(len(REGIONS[number]))]
            + [base64.b64encode(values[number].tobytes()).decode() for values in (BOXES, REGIONS)]
        )
        for number, photo in enumerate(IDS)
    ]
    path = write_lines(folder / "regions.tsv", lines)
    check_regions(load_captions(karpathy(folder), features=path))


def test_hdf5_groups(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "regions.h5", "w") as file:
        for number, photo in enumerate(IDS):
            group = file.create_group(photo)
            group["features"], group["boxes"] = REGIONS[number], BOXES[number]
            group.attrs["image_w"], group.attrs["image_h"] = 40, 30
    check_regions(load_captions(karpathy(folder), features=folder / "regions.h5"))


def test_precomp_folder(tmp_path: Path) -> None:
    regions = np.stack([rows[:3] for rows in REGIONS])
    write_lines(tmp_path / "test_caps.txt", [caption for captions in CAPTIONS for caption in captions])
    for stored in (regions, regions.repeat(2, axis=0)):
        np.save(tmp_path / "test_ims.npy", stored)
        dataset = load_captions(tmp_path, "test")
        assert dataset["captions"][:] == CAPTIONS
        np.testing.assert_array_equal(dataset[1]["region_features"], regions[1])


def test_array_of_regions_by_photo_number(folder: Path) -> None:
    regions = np.stack([rows[:3] for rows in REGIONS])
    np.save(folder / "regions.npy", regions)
    dataset = load_captions(karpathy(folder), features=folder / "regions.npy")
    np.testing.assert_array_equal(dataset[2]["region_features"], regions[2])
    store = open_region_store(folder / "regions.npy")
    assert [key in store for key in ("0", "2", "3", "-1", "photo0000", "²")] == [True, True, *[False] * 4]


def test_missing_regions(folder: Path) -> None:
    np.savez(folder / f"{IDS[0]}.npz", feat=REGIONS[0])
    with pytest.raises(ValueError, match="2 of 3 photos have no features"):
        load_captions(karpathy(folder), features=folder)
    report = SkipReport()
    assert len(load_captions(karpathy(folder), features=folder, on_error="skip", report=report)) == 1
    assert [image_id for image_id, _ in report] == IDS[1:]


def test_pixel_boxes_need_a_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", feat=REGIONS[0], bbox=BOXES[0])
    table = datasets.Dataset.from_dict({"image": ["gone.jpg"], "captions": [["a"]], "image_id": ["0"]})
    with pytest.raises(ValueError, match="size is not known"):
        load_captions(table, features=tmp_path)[0]


def test_boxes_in_zero_to_one_stay_as_they_are(folder: Path) -> None:
    for number in range(3):
        shares = BOXES[number] / np.array([40, 30, 40, 30])
        np.savez(folder / f"{number}.npz", feat=REGIONS[number], bbox=shares, image_w=40, image_h=30)
    check_regions(load_captions(karpathy(folder), features=folder))


def test_messages_name_expected_found_and_nearest() -> None:
    with pytest.raises(ValueError, match=r"found \['imgae', 'caption'\]. Did you mean 'imgae'"):
        find_columns(["imgae", "caption"])
    with pytest.raises(ValueError, match="Did you mean 'captoin'"):
        find_columns(["image", "captoin"])
    with pytest.raises(ValueError, match="Did you mean 'captions'"):
        find_columns(["a", "b"], {"caption": "b"})
    with pytest.raises(ValueError, match=r"found \['data', 'caption'\]. Rename the column"):  # 'data' is no slip
        find_columns(["data", "caption"])
    assert find_columns(["a", "b"], {"image": "a", "captions": "b"}) == {"image": "a", "captions": "b"}


def test_missing_file_names_its_neighbour(folder: Path) -> None:
    write_lines(folder / "captions.jsonl", caption_rows())
    with pytest.raises(ValueError, match=r"Did you mean 'captions.jsonl'"):
        load_captions(folder / "caption.jsonl")


def test_several_splits_need_a_choice(folder: Path) -> None:
    table = datasets.Dataset.from_dict(photo_rows(folder, 3))
    both = datasets.DatasetDict({"train": table, "validation": table})
    with pytest.raises(ValueError, match=r"Pass split='train'"):
        load_captions(both)
    check(load_captions(both, "val"))


def test_one_caption_per_photo_changes_with_the_epoch(folder: Path) -> None:
    examples = CaptionDataset(
        load_captions(datasets.Dataset.from_dict(photo_rows(folder, 3, 3))), captions_per_image="one"
    )
    seen = set()
    for epoch in range(12):
        examples.set_epoch(epoch)
        assert examples[0]["caption"] == examples[0]["caption"]
        seen.add(examples[0]["caption"])
    assert len(examples) == 3 and len(seen) == 3


def test_stream_yields_each_caption_once(folder: Path) -> None:
    write_lines(folder / "rows.jsonl", [{**row} for row in caption_rows()])
    stream = load_captions(folder / "rows.jsonl", streaming=True)
    examples = list(IterableCaptionDataset(stream, captions_per_image="all", buffer_size=3))
    assert sorted(example["caption"] for example in examples) == sorted(row["caption"] for row in caption_rows())
    assert examples[0]["image"].size == (40, 30)
