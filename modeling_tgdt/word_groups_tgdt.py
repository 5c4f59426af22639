# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Word pieces grouped to words, for explanations."""

from typing import Any

import numpy as np

_CONTINUES = "##"  # WordPiece
_STARTS = ("Ġ", "▁")  # byte-level BPE, SentencePiece
_WITHOUT_CONTENT = {
    "a", "an", "the", "of", "in", "on", "at", "to", "by", "with", "and", "or", "is", "are", "was", "were", "be",
    "there", "it", "its", "this", "that", "as", "for", "from",
}  # fmt: skip


def group_words(tokenizer: Any, input_ids: list[int]) -> list[tuple[str, list[int]]]:
    """Group the tokens of one caption to words by the marks that the vocabulary carries.

    Word pieces are recognised by their `##`, byte-level BPE and SentencePiece by the mark of a word's first piece; in
    any other vocabulary every token is a word. Punctuation stands alone.

    Args:
        tokenizer: Tokenizer that made the ids.
        input_ids: Token ids (W,).

    Returns:
        Per word, its text and the positions of its pieces; special tokens belong to no word.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    marked = any(token.startswith(_STARTS) for token in tokenizer.get_vocab())
    groups: list[list[int]] = []
    open_word = False
    for position, (index, token) in enumerate(zip(input_ids, tokenizer.convert_ids_to_tokens(input_ids), strict=True)):
        if index in special:
            open_word = False
            continue
        if open_word and _continues(token, marked):
            groups[-1].append(position)
        else:
            groups.append([position])
        open_word = not marked or _has_letter(token)
    return [(tokenizer.decode([input_ids[position] for position in group]).strip(), group) for group in groups]


def has_content(word: str) -> bool:
    """Tell whether a word names something: articles, prepositions, forms of "to be" and punctuation do not.

    Args:
        word: A word as a caption has it.

    Example:
        >>> [word for word in "A ball in the snow .".split() if has_content(word)]
        ['ball', 'snow']
    """
    return _has_letter(word) and word.lower() not in _WITHOUT_CONTENT


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


def _continues(token: str, marked: bool) -> bool:
    if marked:
        return not token.startswith(_STARTS) and _has_letter(token)
    return token.startswith(_CONTINUES)


def _has_letter(token: str) -> bool:
    return any(character.isalnum() for character in token)
