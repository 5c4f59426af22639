"""Words and regions left out in training: as many as asked for, never all, boxes with their regions."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.trainer.tiny import caption_of, tiny_model, tiny_processor
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.data.token_dropout import drop_regions, drop_words
from trainer.data_collator import TGDTDataCollator, normalise_caption, stable_id


def test_words_go_with_the_probability_asked_for_and_one_always_stays() -> None:
    torch.manual_seed(0)
    caption = " ".join(f"w{number}" for number in range(50))
    kept = [drop_words(caption, 0.2).split() for _ in range(200)]
    assert np.mean([len(words) for words in kept]) == pytest.approx(40, abs=1)
    assert all(words == sorted(words, key=lambda word: int(word[1:])) for words in kept)
    assert all(drop_words("a dog", 0.999) in ("a", "dog") for _ in range(50))
    assert drop_words("dog", 0.9) == "dog" and drop_words(" a  dog ", 0.0) == " a  dog "


def test_regions_keep_their_boxes_and_their_order() -> None:
    torch.manual_seed(0)
    features = np.arange(10, dtype=np.float32)[:, None].repeat(3, 1)
    example = {"caption": "a", "region_features": features, "region_boxes": features[:, :1].repeat(4, 1) / 10}
    counts = np.zeros(10)
    for _ in range(300):
        left = drop_regions(example, 0.3)
        rows = left["region_features"][:, 0]
        assert len(rows) == 7 and torch.equal(rows, rows.sort().values)
        assert torch.allclose(left["region_boxes"][:, 0] * 10, rows) and left["caption"] == "a"
        counts[rows.long().numpy()] += 1
    assert counts / 300 == pytest.approx(np.full(10, 0.7), abs=0.1)
    assert len(drop_regions({"region_features": features[:2]}, 0.99)["region_features"]) == 1
    assert drop_regions({"image": 1}, 0.5) == {"image": 1} and drop_regions(example, 0.0) is example


def test_ids_of_captions_are_those_of_whole_ones() -> None:
    examples = [{"caption": "a red dog runs on the grass", "region_features": np.ones((4, 8), np.float32)}]
    batch = TGDTDataCollator(tiny_processor(), word_dropout=0.8, region_dropout=0.5)(examples)
    assert batch["caption_ids"].tolist() == [stable_id(normalise_caption(examples[0]["caption"]))]
    assert batch["region_mask"].shape == (1, 2) and batch["text_token_mask"].sum() < 7


def test_training_leaves_out_and_evaluation_does_not(tmp_path) -> None:
    arguments = CMCTrainingArguments(str(tmp_path), word_dropout=0.5, region_dropout=0.25, report_to=[])
    photos = [{"image_id": "a", "captions": [caption_of(0)], "region_features": np.ones((2, 16), np.float32)}]
    trainer = CMCTrainer(
        tiny_model(pixels=False), arguments, train_dataset=Dataset.from_list(photos), processing_class=tiny_processor()
    )
    assert (trainer.data_collator.word_dropout, trainer.data_collator.region_dropout) == (0.5, 0.25)
    with pytest.raises(ValueError, match=r"word_dropout and region_dropout must be in \[0, 1\), found 1.0 and 0.0"):
        CMCTrainingArguments(str(tmp_path), word_dropout=1.0)
