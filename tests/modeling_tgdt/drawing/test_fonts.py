# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Labels are drawn with letters, never with the box of a missing one."""

import pytest

from modeling_tgdt.drawing.fonts import has_letter, readable


@pytest.mark.parametrize("text", ["a cat", "Grüße.jpg", "e\u0301", "日本.png", "cat 🐶", "a\u2028b"])
def test_every_letter_that_is_drawn_is_in_the_font(text: str) -> None:
    shown, font = readable(text, 15)
    assert shown and all(has_letter(font, letter) for letter in shown)
    assert [letter for letter in shown if letter.isascii() and letter != "?"] >= [c for c in text if c.isascii()]
