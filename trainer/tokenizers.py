# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A word-level tokenizer made from the captions themselves, for the demo and for tests without downloads."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def build_word_tokenizer(texts: Iterable[str], model_max_length: int = 64) -> PreTrainedTokenizerFast:
    """Build a lower-casing tokenizer whose tokens are the words and punctuation marks of some texts.

    Ids: the special tokens [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then words by falling frequency and, among
    equals, alphabetically; so the same texts in any order give the same tokenizer.

    Args:
        texts: Captions.
        model_max_length: Longest caption in tokens, [CLS] and [SEP] included.

    Returns:
        A tokenizer that saves, loads and pads like any other of transformers.

    Raises:
        ValueError: When the texts hold no word.

    Example:
        >>> tokenizer = build_word_tokenizer(["A red ball.", "A blue ball."])
        >>> tokenizer.convert_ids_to_tokens(tokenizer("a red box").input_ids)
        ['[CLS]', 'a', 'red', '[UNK]', '[SEP]']
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not counts:
        raise ValueError("Expected texts with at least one word, found none. Pass the captions of the training set.")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    ends = [(SPECIAL_TOKENS[name], vocabulary[SPECIAL_TOKENS[name]]) for name in ("cls_token", "sep_token")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    )
