# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTProcessor: transformers' common suite, regions against the recorded reference, words of a caption."""

import json
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models
from transformers import AutoProcessor, BertTokenizer, PreTrainedTokenizerFast

from modeling_tgdt.image_processing_tgdt import TGDTImageProcessor
from modeling_tgdt.processing_tgdt import TGDTProcessor
from tests.transformers_suites import common_suite

REFERENCE = Path(__file__).parents[1] / "fixtures" / "reference"
PIPELINE = json.loads((REFERENCE / "pipeline_inputs.json").read_text())

ProcessorTesterMixin = common_suite("test_processing_common", "ProcessorTesterMixin")

PIECES = ["low", "##er", "new", "##est", "older", "longer", "string", "upper", "a", "ball", "."]


def word_pieces(vocabulary: list[str], **options: Any) -> BertTokenizer:
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder, **options)
    shutil.rmtree(folder)
    return tokenizer


def make_processor(**options: Any) -> TGDTProcessor:
    tokenizer = word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES])
    return TGDTProcessor(TGDTImageProcessor(size={"height": 16, "width": 16}), tokenizer, **options)


class TGDTProcessorTest(ProcessorTesterMixin, unittest.TestCase):  # type: ignore[misc,valid-type]
    processor_class = TGDTProcessor

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return make_processor().tokenizer

    @classmethod
    def _setup_image_processor(cls) -> Any:
        return make_processor().image_processor

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        return {"max_caption_length": 48}


@pytest.fixture(scope="module")
def processor() -> TGDTProcessor:
    return make_processor()


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    return load_file(REFERENCE / "pipeline_inputs.safetensors")


def raw_regions(raw: dict[str, np.ndarray], image: int) -> dict[str, Any]:
    width, height = PIPELINE["sizes_wh"][image]
    return {"features": raw[f"feat.{image}"], "boxes": raw[f"boxes_px.{image}"], "image_size": (height, width)}


@pytest.mark.parametrize("name", ["equal", "ragged", "single"])
def test_regions_and_captions_equal_the_recorded_batches(name: str, raw: dict[str, np.ndarray]) -> None:
    recorded = load_file(REFERENCE / f"forward_{name}.safetensors")
    ours = TGDTProcessor(TGDTImageProcessor(), word_pieces(PIPELINE["vocab"]))
    captions = {
        tuple(ours.tokenizer(sentence["raw"]).input_ids): (number, sentence["raw"])
        for number, image in enumerate(PIPELINE["images"])
        for sentence in image["sentences"]
    }
    lengths = recorded["in.cap_len"].tolist()
    found = [
        captions[tuple(row[:length])] for row, length in zip(recorded["in.captions"].tolist(), lengths, strict=True)
    ]
    images, texts = zip(*found, strict=True)
    batch = ours(text=list(texts), regions=[raw_regions(raw, image) for image in images], return_tensors="pt")
    assert np.array_equal(batch["input_ids"], recorded["in.captions"])
    assert batch["attention_mask"].sum(1).tolist() == lengths
    # Slot 0 of the reference is reserved for the global token.
    assert np.array_equal(batch["region_features"], recorded["in.features"][:, 1:])
    assert np.array_equal(batch["region_boxes"], recorded["in.boxes"][:, 1:])
    assert batch["region_mask"].sum(1).tolist() == (recorded["in.feat_len"] - 1).tolist()


def test_each_input_alone(processor: TGDTProcessor, raw: dict[str, np.ndarray]) -> None:
    picture = Image.new("RGB", (9, 7))
    assert set(processor(text="a ball", return_tensors="pt")) == {"input_ids", "attention_mask", "text_token_mask"}
    assert set(processor(images=[picture], return_tensors="pt")) == {"pixel_values"}
    regions = processor(regions=raw_regions(raw, 3), return_tensors="pt")
    assert set(regions) == {"region_features", "region_boxes", "region_mask"}
    assert [regions[key].dtype for key in sorted(regions)] == [torch.float32, torch.float32, torch.bool]
    both = processor(text=["a ball"], images=picture, return_tensors="pt")
    assert both["pixel_values"].shape == (1, 3, 16, 16)
    assert processor(text=["a ball"], return_token_type_ids=True)["token_type_ids"] == [[0] * 4]


def test_regions_pad_with_zeros_and_a_false_mask(processor: TGDTProcessor) -> None:
    regions = [{"features": torch.ones(2, 5, dtype=torch.bfloat16)}, {"features": np.ones((3, 5)), "boxes": None}]
    batch = processor(regions=regions, return_tensors="pt")
    assert batch["region_mask"].tolist() == [[True, True, False], [True] * 3]
    assert batch["region_features"].sum((1, 2)).tolist() == [10, 15] and "region_boxes" not in batch
    assert isinstance(processor(regions=regions)["region_features"], np.ndarray)


def test_unit_boxes_pass_with_a_unit_size(processor: TGDTProcessor) -> None:
    boxes = [[0.0, 0.25, 0.5, 1.0]]
    batch = processor(regions={"features": [[1.0]], "boxes": boxes, "image_size": (1, 1)}, return_tensors="pt")
    assert batch["region_boxes"].tolist() == [boxes]


ONE = {"features": np.ones((2, 4)), "boxes": np.ones((2, 4)), "image_size": (4, 8)}


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([], "at least one image"),
        ([np.ones((2, 4))], r"regions\[0\] as .*found ndarray"),
        ([ONE, {"boxes": None}], r"regions\[1\].*found the keys \['boxes'\]"),
        ([{**ONE, "features": np.ones(4)}], r"at least one region, found \(4,\)"),
        ([{**ONE, "features": np.full((2, 4), np.nan)}], "NaN or infinity"),
        ([ONE, {**ONE, "features": np.ones((2, 5))}], r"one width in a batch, found \[4, 5\]"),
        ([{**ONE, "boxes": np.ones((3, 4))}], r"shape \(2, 4\), one box per feature, found \(3, 4\)"),
        ([{**ONE, "image_size": None}], r"\(height, width\) in pixels, found None"),
        ([{**ONE, "image_size": (0, 8)}], r"found \(0, 8\)"),
        ([{**ONE, "boxes": np.array([[0, 0, 4, 8]] * 2)}], "height and width swapped"),
        ([ONE, {**ONE, "boxes": None}], r"none on \[1\]"),
    ],
)
def test_region_refusals(processor: TGDTProcessor, regions: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        processor(regions=regions)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "found none. Pass at least one"),
        ({"images": [Image.new("L", (2, 2))], "regions": [ONE]}, "found both"),
        ({"text": []}, "found an empty list"),
        ({"text": 3}, "found int"),
        ({"text": ["a", None]}, r"a list of \['NoneType', 'str'\]"),
    ],
)
def test_input_refusals(processor: TGDTProcessor, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_long_captions_are_cut_and_counted() -> None:
    ours = make_processor(max_caption_length=6)
    batch = ours(text=["a ball . a ball", "a ball . a", "lower newest ball ."], return_tensors="pt")
    assert batch["input_ids"].shape == (3, 6) and ours.num_truncated == 2
    assert ours(text="a ball . a ball")["attention_mask"] == [1] * 6 and ours.num_truncated == 3
    assert len(ours(text="a ball . a ball", truncation=False, max_length=None)["input_ids"]) == 7
    with pytest.raises(ValueError, match="at least 3"):
        make_processor(max_caption_length=2)


def test_round_trip_keeps_options(tmp_path: Path) -> None:
    ours = make_processor(max_caption_length=9)
    ours.save_pretrained(tmp_path)
    for loaded in (TGDTProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is TGDTProcessor and loaded.max_caption_length == 9
        assert loaded.text_kwargs["max_length"] == 9 and loaded.image_processor.size.height == 16


def test_words_of_word_pieces(processor: TGDTProcessor) -> None:
    batch = processor(text=["a lower ball.", "newest"], return_tensors="pt")
    assert processor.words(batch["input_ids"][0]) == [("a", [1]), ("lower", [2, 3]), ("ball", [4]), (".", [5])]
    assert processor.words(batch["input_ids"][1]) == [("newest", [1, 2])]
    assert processor.words(processor(text="ball queen")["input_ids"]) == [("ball", [1]), ("[UNK]", [2])]


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
def test_words_of_marked_vocabularies(mark: str) -> None:
    pieces = ["<s>", "</s>", "<unk>", f"{mark}red", f"{mark}ba", "ll", "."]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    groups = TGDTProcessor(TGDTImageProcessor(), fast).words([0, 3, 4, 5, 6, 1])
    assert [positions for _, positions in groups] == [[1], [2, 3], [4]]
