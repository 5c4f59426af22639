"""A tokenizer of every family, with a small vocabulary made on the spot."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenizers import pre_tokenizers
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    MPNetTokenizer,
    Qwen2Tokenizer,
    RobertaTokenizer,
    Siglip2Tokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
LETTERS = [*"abcdefghijklmnopqrstuvwxyz.,"]
_PIECES = ["a", "red", "car", "the", "sea", "do"]


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _merges(*words: str) -> list[tuple[str, str]]:
    """Merges that build words from letters, from the left; a mark at the end counts as one letter."""
    found: list[tuple[str, str]] = []
    for word in words:
        letters = [*word.removesuffix("</w>")]
        letters[-1] += "</w>" if word.endswith("</w>") else ""
        left = letters[0]
        for letter in letters[1:]:
            found.append((left, letter))
            left += letter
    return list(dict.fromkeys(found))


def _word_pieces(*special: str) -> dict[str, int]:
    return _numbered([*special, *_PIECES, "##gs", "##er", *LETTERS, *(f"##{letter}" for letter in LETTERS)])


def _bytes(mark: str, end: str, *special: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = _merges("red" + end, "car" + end, mark + "red", mark + "car", mark + "a")
    ends = [letter + end for letter in BYTES] if end else []
    return _numbered([*BYTES, *ends, *("".join(pair) for pair in merges), *special]), merges


def _unigram(*special: str) -> list[tuple[str, float]]:
    words = [(f"▁{piece}", -2.0) for piece in _PIECES]
    letters = [(letter, -8.0) for letter in ["▁", *LETTERS]]
    return [*((token, 0.0) for token in special), *words, *letters]


def _bert() -> Any:
    return BertTokenizer(vocab=_word_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


def _mpnet() -> Any:
    return MPNetTokenizer(vocab=_word_pieces("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))


def _clip() -> Any:
    vocabulary, merges = _bytes("", "</w>", "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def _roberta() -> Any:
    vocabulary, merges = _bytes("Ġ", "", "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=vocabulary, merges=merges)


def _gpt2() -> Any:
    vocabulary, merges = _bytes("Ġ", "", "<|endoftext|>")
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", padding_side="left")


def _qwen() -> Any:
    vocabulary, merges = _bytes("Ġ", "", "<|endoftext|>")
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, padding_side="left")


def _t5() -> Any:
    return T5Tokenizer(vocab=_unigram("<pad>", "</s>", "<unk>"), extra_ids=0)


def _siglip() -> Any:
    """As SigLIP's checkpoints have it: pads with its end token, and names no attention mask among its outputs."""
    options: dict[str, Any] = {"pad_token": "</s>", "model_input_names": ["input_ids"], "model_max_length": 16}
    return T5Tokenizer(vocab=_unigram("</s>", "<unk>"), extra_ids=0, **options)


def _xlm_roberta() -> Any:
    return XLMRobertaTokenizer(vocab=_unigram("<s>", "<pad>", "</s>", "<unk>", "<mask>"))


def _gemma(make: Any = GemmaTokenizer) -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    merges = [*_merges("red", "car"), *_merges("▁red", "▁car", "▁a")]
    return make(vocab=_numbered([*special, "▁", *LETTERS, *("".join(pair) for pair in merges)]), merges=merges)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "clip": _clip,
    "gemma": _gemma,
    "gpt2": _gpt2,
    "mpnet": _mpnet,
    "qwen": _qwen,
    "roberta": _roberta,
    "siglip": _siglip,
    "siglip2": partial(_gemma, Siglip2Tokenizer),
    "t5": _t5,
    "xlm-roberta": _xlm_roberta,
}
