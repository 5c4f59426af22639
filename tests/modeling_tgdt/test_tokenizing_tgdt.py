# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Words and masks of every tokenizer family, and text encoders that give a text the same embedding in any batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    CLIPTextConfig,
    GPT2Config,
    MPNetConfig,
    PreTrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from modeling_tgdt import TGDTConfig, TGDTImageProcessor, TGDTModel, TGDTProcessor
from modeling_tgdt.encoding_tgdt import fitted_processor
from modeling_tgdt.tokenizing_tgdt import group_words, tokenize
from tests.modeling_tgdt.tokenizers_of_families import TOKENIZERS

TEXTS = ["a red car", "sea", "dogs do the sea, a car.", ""]
_SIZES: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


def encoders() -> dict[str, tuple[str, PreTrainedConfig, str]]:
    """Text encoder of each kind: tokenizer, configuration, input of the global slot."""
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    return {
        "bert": ("bert", BertConfig(**_SIZES), "first"),
        "roberta": ("roberta", RobertaConfig(**_SIZES | special), "first"),
        "mpnet": ("mpnet", MPNetConfig(**_SIZES | special), "mean"),
        "xlm-roberta": ("xlm-roberta", XLMRobertaConfig(**_SIZES | special), "first"),
        "t5": ("t5", T5Config(vocab_size=600, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2), "mean"),
        "clip": ("clip", CLIPTextConfig(**_SIZES | {"eos_token_id": 519}), "last"),
        "gpt2": ("gpt2", GPT2Config(vocab_size=600, n_positions=40, n_embd=16, n_layer=2, n_head=2), "last"),
        "qwen": ("qwen", Qwen3Config(**_SIZES, num_key_value_heads=1, head_dim=8), "last"),
    }


def pair(name: str) -> tuple[TGDTModel, TGDTProcessor]:
    tokenizer, config, slot = encoders()[name]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"region_feature_size": 8, "projection_dim": 16, "num_region_layers": 0}
    options = {"num_local_layers": 1, "num_global_layers": 1, "intermediate_size": 24, "text_global_token": slot}
    model = TGDTModel(TGDTConfig(text_config=config, **sizes, **options)).eval()
    return model, fitted_processor(TGDTProcessor(TGDTImageProcessor(), TOKENIZERS[tokenizer]()), model)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_an_added_token_is_a_word(family: str) -> None:
    tokenizer = TOKENIZERS[family]()
    tokenizer.add_tokens(["<obj>"])
    ids = TGDTProcessor(TGDTImageProcessor(), tokenizer)(text="a <obj> car")["input_ids"]
    assert [word for word, _ in group_words(tokenizer, ids)] == ["a", "<obj>", "car"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides_that_were_set_later_are_saved(side: str, tmp_path: Path) -> None:
    """A model that was trained on the ends of long captions would else embed their beginnings."""
    processor = TGDTProcessor(TGDTImageProcessor(), TOKENIZERS["bert"](), max_caption_length=5)
    processor.tokenizer.truncation_side = processor.tokenizer.padding_side = side
    processor.save_pretrained(tmp_path)
    loaded = TGDTProcessor.from_pretrained(tmp_path)
    texts = ["dogs do the sea a car", "sea"]
    assert loaded(text=texts)["input_ids"] == processor(text=texts)["input_ids"]
    words = [word for word, _ in loaded.words(loaded(text=texts[0])["input_ids"])]
    assert words == (["sea", "a", "car"] if side == "left" else ["dogs", "do"])


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_words_are_words(family: str, side: str) -> None:
    tokenizer = TOKENIZERS[family]()
    tokenizer.padding_side = side
    processor = TGDTProcessor(TGDTImageProcessor(), tokenizer, max_caption_length=32)
    batch = processor(text=["a red car", "dogs, a red sea."], return_tensors="pt")
    for ids, mask, expected in zip(
        batch["input_ids"],
        batch["text_token_mask"],
        (["a", "red", "car"], ["dogs", ",", "a", "red", "sea", "."]),
        strict=True,
    ):
        groups = processor.words(ids)
        assert [word for word, _ in groups] == expected
        assert sorted(place for _, places in groups for place in places) == mask.nonzero()[:, 0].tolist()
    lone = processor(text="a red car")
    assert all(isinstance(value, (int, bool)) for value in lone["text_token_mask"])
    assert batch["attention_mask"].sum(1).tolist()[0] == len(lone["input_ids"])


@pytest.mark.parametrize("name", encoders())
@torch.no_grad()
def test_batches_and_padding_change_nothing(name: str) -> None:
    model, processor = pair(name)
    alone = [model.get_text_features(**processor(text=[text], return_tensors="pt")) for text in TEXTS]
    for side in ("right", "left"):
        for order in ([0, 1, 2, 3], [3, 2, 0, 1]):
            batch = processor(text=[TEXTS[row] for row in order], return_tensors="pt", padding_side=side)
            found = model.get_text_features(**batch)
            for place, row in enumerate(order):
                torch.testing.assert_close(found.pooler_output[place], alone[row].pooler_output[0], atol=1e-5, rtol=0)
                words = found.last_hidden_state[place][found.token_mask[place]]
                torch.testing.assert_close(
                    words, alone[row].last_hidden_state[0][alone[row].token_mask[0]], atol=1e-5, rtol=0
                )
    different = (alone[0].pooler_output - alone[1].pooler_output).abs().max()
    assert different > 1e-3, "every text has an embedding of its own"


@pytest.mark.parametrize("family", ["bert", "clip", "gemma", "t5"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_as_the_tokenizer_would(family: str, side: str) -> None:
    tokenizer = TOKENIZERS[family]()
    tokenizer.truncation_side = side
    texts = ["a red car", "dogs do the sea, a red car. " * 3]
    options = {"padding": "longest", "truncation": True, "max_length": 9}
    expected = tokenizer(texts, **options, return_attention_mask=True)
    found = tokenize(TOKENIZERS[family](), texts, options, attends_padding=False) if side == "right" else None
    found = found or tokenize(tokenizer, texts, options, attends_padding=False)
    assert found.columns["input_ids"] == expected["input_ids"]
    assert found.columns["attention_mask"] == expected["attention_mask"]
    assert found.num_cut == 1


def test_options_of_the_tokenizer_pass() -> None:
    processor = TGDTProcessor(TGDTImageProcessor(), TOKENIZERS["bert"](), max_caption_length=8)
    batch = processor(
        text=["a red car", "sea"],
        padding="max_length",
        pad_to_multiple_of=3,
        return_token_type_ids=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    assert {len(row) for rows in batch.values() for row in rows} == {9}
    assert "attention_mask" not in batch and batch["offset_mapping"][1][1] == (0, 3)
    assert batch["special_tokens_mask"][1] == [1, 0, *[1] * 7]
    assert [len(row) for row in processor(text=["a red car", "sea"], padding=False)["input_ids"]] == [5, 3]


def test_pairs_that_cannot_be_right_are_refused() -> None:
    model, _ = pair("bert")
    model.resize_token_embeddings(20)
    processor = TGDTProcessor(TGDTImageProcessor(), TOKENIZERS["bert"]())
    with pytest.raises(ValueError, match=r"at most 20 tokens.*found 68.*resize_token_embeddings\(68\)"):
        fitted_processor(processor, model)
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer.pad_token = tokenizer.eos_token"):
        processor(text=["a", "a red car"])
    _, config, _ = encoders()["gpt2"]
    with pytest.raises(ValueError, match=r"causal 'gpt2' encoder.*text_global_token='last'"):
        TGDTModel(TGDTConfig(text_config=config, region_feature_size=8, projection_dim=16))


def test_captions_fit_the_positions_of_the_text_encoder() -> None:
    model, processor = pair("roberta")
    assert processor.max_caption_length == 38, "RoBERTa counts positions from the padding id on"
    features = model.get_text_features(**processor(text=["a red car " * 40], return_tensors="pt"))
    assert features.last_hidden_state.shape[1] == 38 and processor.num_truncated == 1


def test_the_configuration_may_count_instead() -> None:
    model, processor = pair("bert")
    inputs = processor(text=["a red car"], return_tensors="pt")
    assert model.get_text_features(**inputs).token_mask.tolist() == [[False, True, True, True, False]]
    model.config.num_prefix_tokens, model.config.num_suffix_tokens = 1, 2
    assert model.get_text_features(**inputs).token_mask.tolist() == [[False, True, True, False, False]]
