# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Texts to padded token ids, and ids back to words, for the tokenizer of any text encoder.

A fast tokenizer keeps truncation and padding as state that all threads share. So it is only asked for whole texts
here, which changes no state, and cutting and padding are done outside of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

Marks = Literal["continues", "starts", "ends", "none"]
_CONTINUES = "##"  # WordPiece: on every piece but a word's first
_STARTS = ("Ġ", "▁")  # byte-level BPE, SentencePiece: on a word's first piece
_ENDS = "</w>"  # CLIP: on a word's last piece
_NAMED = ("bos", "eos", "sep", "cls", "pad", "mask")
_WITHOUT_CONTENT = {
    "a", "an", "the", "of", "in", "on", "at", "to", "by", "with", "and", "or", "is", "are", "was", "were", "be",
    "there", "it", "its", "this", "that", "as", "for", "from",
}  # fmt: skip
_marks: WeakKeyDictionary[Any, Marks] = WeakKeyDictionary()


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids that are not words. The unknown token stands for a word, unless it has another office as well.

    Args:
        tokenizer: Tokenizer of transformers.
    """
    named: set[Any] = {getattr(tokenizer, f"{name}_token_id", None) for name in _NAMED} - {None}
    return (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}) | named


def group_words(tokenizer: Any, input_ids: list[int]) -> list[tuple[str, list[int]]]:
    """Group the tokens of one caption to words by the marks that the vocabulary carries.

    Word pieces are recognised by their `##`, byte-level BPE and SentencePiece by the mark of a word's first piece,
    CLIP's pieces by that of the last; in any other vocabulary every token is a word. Punctuation stands alone, and so
    do tokens that were added to a vocabulary, which carry no marks.

    Args:
        tokenizer: Tokenizer that made the ids.
        input_ids: Token ids (W,).

    Returns:
        Per word, its text and the positions of its pieces; special tokens belong to no word.
    """
    special, marks = special_ids(tokenizer), vocabulary_marks(tokenizer)
    added = set(tokenizer.get_added_vocab().values())
    groups: list[list[int]] = []
    before: str | None = None  # the token before in the same word, if a word can go on
    for position, (index, token) in enumerate(zip(input_ids, tokenizer.convert_ids_to_tokens(input_ids), strict=True)):
        if index in special:
            before = None
            continue
        goes_on = before is not None and _goes_on(tokenizer, before, token, marks)
        if before in _STARTS if index in added else goes_on:
            groups[-1].append(position)
        else:
            groups.append([position])
        before = None if index in added else token
    return [(tokenizer.decode([input_ids[position] for position in group]).strip(), group) for group in groups]


def has_content(word: str) -> bool:
    """Tell whether a word names something: articles, prepositions, forms of "to be" and punctuation do not.

    Args:
        word: A word as a caption has it.

    Example:
        >>> [word for word in "A ball in the snow .".split() if has_content(word)]
        ['ball', 'snow']
    """
    return any(map(str.isalnum, word)) and word.lower() not in _WITHOUT_CONTENT


def vocabulary_marks(tokenizer: Any) -> Marks:
    """Tell which pieces of a word a vocabulary marks, by what most marked tokens carry.

    Args:
        tokenizer: Tokenizer of transformers.
    """
    if tokenizer not in _marks:
        counts: dict[Marks, int] = {"continues": 0, "starts": 0, "ends": 0, "none": 0}
        for token in tokenizer.get_vocab():
            counts["ends"] += token.endswith(_ENDS)
            counts["continues"] += token.startswith(_CONTINUES) and token[2:3].isalnum()
            # Vocabularies of bytes hold the bare marks as letters.
            counts["starts"] += token.startswith(_STARTS) and token[1:2].isalnum() and not token.endswith(_ENDS)
        _marks[tokenizer] = max(counts, key=lambda marks: counts[marks])
        if not counts[_marks[tokenizer]]:
            _marks[tokenizer] = "none"
    return _marks[tokenizer]


def merge_pieces(cosines: np.ndarray, words: list[tuple[str, list[int]]], merge: str = "mean") -> np.ndarray:
    """Merge the rows of word pieces.

    Args:
        cosines: (T, R), a row per token.
        words: W words, each with the rows of its pieces.
        merge: "mean", as the model's score counts pieces alike, or "max".

    Returns:
        (W, R) float32.
    """
    reduce = np.mean if merge == "mean" else np.max
    return np.stack([reduce(cosines[pieces], axis=0) for _, pieces in words]).astype(np.float32)


def _goes_on(tokenizer: Any, before: str, token: str, marks: Marks) -> bool:
    """Tell whether a token belongs to the word of the token before it."""
    if marks == "ends":
        return not before.endswith(_ENDS)
    if marks == "continues":
        return token.startswith(_CONTINUES)
    if marks == "none" or token.startswith(_STARTS):
        return False
    return before in _STARTS or (_has_letter(tokenizer, before) and _has_letter(tokenizer, token))


def _has_letter(tokenizer: Any, token: str) -> bool:
    """Tell whether a token holds a letter or digit, or a part of one in a vocabulary of bytes."""
    text = token if token.isascii() else tokenizer.convert_tokens_to_string([token])
    return any(character.isalnum() or character == "\ufffd" for character in text)


# Options of a tokenizer that are carried out here.
_OWN = (
    "padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side", "return_tensors",
    "return_attention_mask", "return_special_tokens_mask",
)  # fmt: skip


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of B texts.

    Attributes:
        columns: Per name (`input_ids`, `attention_mask`, `text_token_mask`, ...) B rows.
        lengths: Tokens of each text before it was cut.
        num_cut: How many texts were cut.
    """

    columns: dict[str, list[list[Any]]]
    lengths: list[int]
    num_cut: int


def tokenize(tokenizer: Any, texts: Sequence[str], options: dict[str, Any], attends_padding: bool) -> TokenizedTexts:
    """Tokenize texts.

    Args:
        tokenizer: Tokenizer of transformers, fast or slow.
        texts: B strings.
        options: Of a tokenizer's call.
        attends_padding: Whether padding counts as attended to, as text encoders of SigLIP have it.

    Returns:
        Ids, a mask of what is attended to, and `text_token_mask`: true for words, false for padding and for what the
        tokenizer calls special.
    """
    passed = {name: value for name, value in options.items() if name not in _OWN}
    whole = tokenizer(
        list(texts),
        **(passed | {"padding": False, "truncation": False, "return_attention_mask": False, "verbose": False}),
        return_special_tokens_mask=True,
    )
    columns = {name: [list(row) for row in rows] for name, rows in whole.items()}
    lengths = [len(row) for row in columns["input_ids"]]
    limit = options.get("max_length") or tokenizer.model_max_length
    num_cut = 0
    if options.get("truncation") not in (None, False, "do_not_truncate"):
        num_cut = sum(length > limit for length in lengths)
        _cut(columns, limit, tokenizer.truncation_side)
    _mark_words(columns, tokenizer)
    if not options.get("return_special_tokens_mask"):
        del columns["special_tokens_mask"]
    _pad(columns, tokenizer, _width(columns["input_ids"], options, limit), options, attends_padding)
    if options.get("return_attention_mask") is False:
        del columns["attention_mask"]
    return TokenizedTexts(columns, lengths, num_cut)


def check_padding(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot bring texts to one length.

    Raises:
        ValueError: When it has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"Expected a tokenizer with a padding token, found a {type(tokenizer).__name__} without. Set one, for "
            "example `tokenizer.pad_token = tokenizer.eos_token`; padding is masked."
        )


def _cut(columns: dict[str, list[list[Any]]], limit: int, side: str) -> None:
    """Shorten rows to the limit; the special tokens at both ends stay."""
    for row, special in enumerate(list(columns["special_tokens_mask"])):
        if len(special) <= limit:
            continue
        content = [position for position, mark in enumerate(special) if not mark]
        first, last = (content[0], content[-1] + 1) if content else (limit, len(special))
        room = max(0, limit - first - (len(special) - last))
        start, end = (first, first + room) if side == "right" else (last - room, last)
        for rows in columns.values():
            rows[row] = rows[row][:first] + rows[row][start:end] + rows[row][last:]


def _mark_words(columns: dict[str, list[list[Any]]], tokenizer: Any) -> None:
    special = special_ids(tokenizer)
    pairs = zip(columns["input_ids"], columns["special_tokens_mask"], strict=True)
    columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    columns["text_token_mask"] = [
        [not mark and index not in special for index, mark in zip(ids, marks, strict=True)] for ids, marks in pairs
    ]


def _width(rows: list[list[int]], options: dict[str, Any], limit: int) -> int | None:
    """Return how many tokens every row is padded to; `None` for as many as it has."""
    padding = options.get("padding")
    padding = getattr(padding, "value", padding)
    if padding in (None, False, "do_not_pad"):
        return None
    width = max(1, *(len(row) for row in rows))  # nothing but empty texts still is one position
    if padding == "max_length" and limit < 1 << 30:
        width = max(width, limit)
    multiple = options.get("pad_to_multiple_of") or 1
    return -(-width // multiple) * multiple


def _pad(
    columns: dict[str, list[list[Any]]], tokenizer: Any, width: int | None, options: dict[str, Any], attended: bool
) -> None:
    if width is None or all(len(row) == width for row in columns["input_ids"]):
        return
    check_padding(tokenizer)
    filling = {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": int(attended),
        "text_token_mask": False,
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        "special_tokens_mask": 1,
        "offset_mapping": (0, 0),
    }
    left = (options.get("padding_side") or tokenizer.padding_side) == "left"
    for name, rows in columns.items():
        if name not in filling:
            continue
        for number, row in enumerate(rows):
            more = [filling[name]] * (width - len(row))
            rows[number] = more + row if left else row + more


__all__ = ["TokenizedTexts", "check_padding", "tokenize"]
