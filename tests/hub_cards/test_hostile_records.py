# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Cards from records that somebody else wrote: shown as they are, never as pictures, HTML or code of the card."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub_cards.cards import model_card
from trainer.publishing.publish import _copy_records

EVIL = "![x](http://stranger/x.png)<script>alert(1)</script>\n```\n# Free\n|a|b|"
RECORD: dict[str, Any] = {
    "command": f"tgdt train --recipe flickr8k ```\n<b>{EVIL}",
    "recipe": {
        "description": EVIL, "eval_split": EVIL, "model": {"objective": EVIL},
        "training": {"learning_rate": EVIL, "freeze": [EVIL]},
    },
    "seed": EVIL,
    "seconds": {EVIL: 1.0},
    "threads": EVIL,
    "device": EVIL,
    "hardware": EVIL,
    "versions": {EVIL: EVIL},
    "protocol": EVIL,
    "results": {EVIL: {"rsum": 1.0, "i2t_r1": 1.0}},
}  # fmt: skip
CONFIG = {
    "projection_dim": EVIL, "objective": EVIL, "similarity_reduction": EVIL, "global_score_weight": EVIL,
    "local_score_weight": EVIL, "num_local_layers": EVIL, "region_feature_size": 16,
    "text_config": {"model_type": EVIL, "hidden_size": EVIL},
}  # fmt: skip


def rendered(card: str) -> str:
    """Return a card without its front matter, its fenced code, and what is escaped or in backticks."""
    import re

    body = card.split("---\n", 2)[2]
    body = re.sub(r"(?ms)^```.*?^```$", "", body)
    return re.sub(r"`[^`\n]*`|\\.|<!--.*?-->", "", body)


def test_a_card_shows_what_was_recorded_as_it_is() -> None:
    text = str(model_card(RECORD, "user/model", config=CONFIG))
    shown = rendered(text)
    assert (
        "](http://stranger" not in shown and "<script" not in shown and "\n# Free" not in shown and "```" not in shown
    )
    assert "alert" in text  # shown, not left out


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000,
        "[]",
        '{"recipe": []}',
        '{"recipe": {"training": 3}}',
        '{"command": "x", "results": [1]}',
        '{"command": "x", "results": {"global": {"rsum": "1"}}}',
        '{"versions": 3}',
        '{"seconds": {"training": "x"}, "command": "x"}',
        '{"parameters": "many"}',
        '{"command": 7}',
        '{"command": "an open \' quote"}',
    ],
)
def test_a_record_of_another_form_makes_a_card_or_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record)
    try:
        assert str(model_card(tmp_path, "user/model"))
    except ValueError as error:
        assert "run.json" in str(error) or "quot" in str(error).lower() or "format" in str(error).lower()


def test_the_name_of_a_folder_is_no_code(tmp_path: Path) -> None:
    folder = tmp_path / '"); import os #```<b>![x](x)'
    folder.mkdir()
    shown = str(model_card(folder))
    assert "import os #" not in shown and "<b>" not in rendered(shown)


def test_records_behind_links_are_not_published(tmp_path: Path) -> None:
    model, staging, secret = tmp_path / "model", tmp_path / "staging", tmp_path / "secret"
    model.mkdir()
    staging.mkdir()
    secret.write_text("secret")
    (model / "run.json").write_text(json.dumps({}))
    (model / "LICENSE").symlink_to(secret)
    with pytest.raises(ValueError, match="LICENSE.*not a regular file"):
        _copy_records(model, staging)
    (model / "LICENSE").unlink()
    _copy_records(model, staging)
    assert sorted(path.name for path in staging.iterdir()) == ["run.json"]
