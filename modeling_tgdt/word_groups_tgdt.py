# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Word pieces grouped to words, for explanations; which tokens are no words at all."""

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
    """Return the ids that are no words. The unknown token stands for a word, unless it has another office as well.

    Args:
        tokenizer: Tokenizer of transformers.
    """
    named: set[Any] = {getattr(tokenizer, f"{name}_token_id", None) for name in _NAMED} - {None}
    return (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}) | named


def group_words(tokenizer: Any, input_ids: list[int]) -> list[tuple[str, list[int]]]:
    """Group the tokens of one caption to words by the marks that the vocabulary carries.

    Word pieces are recognised by their `##`, byte-level BPE and SentencePiece by the mark of a word's first piece,
    CLIP's pieces by that of the last; in any other vocabulary every token is a word. Punctuation stands alone.

    Args:
        tokenizer: Tokenizer that made the ids.
        input_ids: Token ids (W,).

    Returns:
        Per word, its text and the positions of its pieces; special tokens belong to no word.
    """
    special, marks = special_ids(tokenizer), vocabulary_marks(tokenizer)
    groups: list[list[int]] = []
    before: str | None = None  # the token before in the same word, if a word can go on
    for position, (index, token) in enumerate(zip(input_ids, tokenizer.convert_ids_to_tokens(input_ids), strict=True)):
        if index in special:
            before = None
            continue
        if before is not None and _goes_on(tokenizer, before, token, marks):
            groups[-1].append(position)
        else:
            groups.append([position])
        before = token
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
