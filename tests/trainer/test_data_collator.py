"""TGDTDataCollator with the real processor and a tiny model."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.tiny import caption_of, picture, tiny_model, tiny_processor
from trainer.data_collator import TGDTDataCollator, normalise_caption, stable_id

# Ids go into saved files: this number must never change.
STABLE = 4305051443082082365


def region_example(number: int, regions: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    boxes = np.sort(rng.random((regions, 4)), axis=1)
    features = rng.random((regions, 16)).astype(np.float16)
    caption = caption_of(number)
    return {"region_features": features, "region_boxes": boxes, "caption": caption, "image_id": str(number)}


def test_pictures_make_inputs_of_the_model() -> None:
    examples = [{"image": picture(n), "caption": caption_of(n), "image_id": f"p{n % 2}"} for n in range(3)]
    batch = TGDTDataCollator(tiny_processor())(examples)
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["image_ids"].dtype == torch.int64 and batch["image_ids"][0] == batch["image_ids"][2]
    assert batch["image_ids"][0] != batch["image_ids"][1] and batch["return_loss"] is True
    assert torch.isfinite(tiny_model()(**batch).loss)


def test_regions_are_padded_and_padding_changes_nothing() -> None:
    collator = TGDTDataCollator(tiny_processor(), return_loss=None)
    batch = collator([region_example(0, 3), region_example(1, 5)])
    assert batch["region_features"].shape == (2, 5, 16) and batch["region_boxes"].shape == (2, 5, 4)
    assert batch["region_mask"].sum(1).tolist() == [3, 5] and batch["region_mask"].dtype == torch.bool
    assert batch["region_features"].dtype == torch.float32 and "return_loss" not in batch
    model = tiny_model(pixels=False)
    alone = model(**collator([region_example(0, 3)])).image_embeds
    torch.testing.assert_close(model(**batch).image_embeds[:1], alone, atol=1e-5, rtol=0)


def test_ids_are_stable_and_absent_ids_are_distinct() -> None:
    assert stable_id("photo") == STABLE
    examples = [{"image": picture(0), "caption": caption_of(0)} for _ in range(3)]
    assert len(set(TGDTDataCollator(tiny_processor())(examples)["image_ids"].tolist())) == 3


def test_equal_captions_share_a_caption_id_and_no_image_id() -> None:
    captions = ["A red square.", "a  red square", "a blue square"]
    examples = [{"image": picture(n), "caption": text, "image_id": str(n)} for n, text in enumerate(captions)]
    batch = TGDTDataCollator(tiny_processor())(examples)
    first, second, third = batch["caption_ids"].tolist()
    assert first == second != third and len(set(batch["image_ids"].tolist())) == 3
    assert normalise_caption(" A Dog .") == "a dog"


def test_hard_negatives_follow_the_pairs_of_their_side() -> None:
    examples = [{"image": picture(n), "caption": caption_of(n), "image_id": str(n)} for n in range(3)]
    examples[0] |= {"negative_captions": [caption_of(1), "nothing"], "negative_images": []}
    examples[2] |= {"negative_captions": None, "negative_images": [picture(1), picture(7)]}
    examples[2] |= {"negative_image_ids": ["1", None]}
    collator = TGDTDataCollator(tiny_processor())
    batch = collator(examples)
    assert batch["num_pairs"] == 3 and len(batch["input_ids"]) == 5 and len(batch["pixel_values"]) == 5
    assert torch.equal(batch["pixel_values"][3], batch["pixel_values"][1])
    assert torch.equal(batch["input_ids"][3], batch["input_ids"][1])
    ids, texts = batch["image_ids"].tolist(), batch["caption_ids"].tolist()
    assert ids[3] == ids[1] and len(set(ids)) == 4 and texts[3] == texts[1] and len(set(texts)) == 4
    assert torch.isfinite(tiny_model()(**batch).loss)
    plain = collator([{**example, "negative_captions": [], "negative_images": []} for example in examples])
    assert "num_pairs" not in plain and len(plain["input_ids"]) == 3


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "empty list"),
        ([{**region_example(0, 2), "negative_images": [picture(0)]}], "negative_images need examples with 'image'"),
        ([{"image": picture(0), "captions": ["a"]}], "Wrap the data set in CaptionDataset"),
        ([{"caption": "a", "image_id": "1"}], "needs 'image'"),
        ([{**region_example(0, 2), "region_boxes": np.zeros((3, 4))}], "one box per region"),
        ([{**region_example(0, 2), "region_boxes": np.full((2, 4), 30.0)}], r"in \[0, 1\]"),
        ([region_example(0, 2), {**region_example(1, 2), "region_features": np.zeros((2, 3))}], "one width"),
    ],
)
def test_wrong_examples_say_what_to_do(examples: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TGDTDataCollator(tiny_processor())(examples)
