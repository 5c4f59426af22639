# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The word-level tokenizer of the demo."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modeling_tgdt.image_processing_tgdt import TGDTImageProcessor
from modeling_tgdt.processing_tgdt import TGDTProcessor
from trainer.tokenizers import build_word_tokenizer

TEXTS = ["A red ball, left of a box.", "A blue ball."]


def test_words_punctuation_and_special_tokens() -> None:
    tokenizer = build_word_tokenizer(TEXTS)
    ids = tokenizer("a RED box, a cat").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "box", ",", "a", "[UNK]", "[SEP]"]
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id] == [0, 1, 4]
    assert set(tokenizer(TEXTS, padding=True)) == {"input_ids", "attention_mask"}


def test_order_of_texts_changes_nothing() -> None:
    assert build_word_tokenizer(TEXTS).get_vocab() == build_word_tokenizer(TEXTS[::-1]).get_vocab()


def test_round_trip_and_words(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS, model_max_length=6)
    processor = TGDTProcessor(TGDTImageProcessor(), tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS).input_ids == tokenizer(TEXTS).input_ids and loaded.model_max_length == 6
    batch = processor(text=TEXTS)
    assert len(batch["input_ids"][0]) == 6 and processor.num_truncated == 1
    assert processor.words(batch["input_ids"][1]) == [("a", [1]), ("blue", [2]), ("ball", [3]), (".", [4])]


def test_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        build_word_tokenizer(["", " "])
