# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`accelerate launch -m trainer.cli index`: two gloo processes fill one gallery."""

from pathlib import Path

import pytest

from modeling_tgdt.index_tgdt import TGDTIndex
from tests.tiny_retrieval import picture_folder, tiny_model, tiny_processor
from tests.trainer.test_distributed import run
from trainer.cli import main


@pytest.mark.slow
def test_a_launch_indexes_like_one_process(tmp_path: Path) -> None:
    for part in (tiny_model(), tiny_processor()):
        part.save_pretrained(tmp_path / "model")
    folder = picture_folder(tmp_path / "pictures", 5)
    argv = ["--quiet", "index", str(folder), "--model", str(tmp_path / "model"), "--batch-size", "2", "--out"]
    assert main([*argv, str(tmp_path / "alone")]) == 0
    printed = run("accelerate", 2, "trainer.cli", *argv, str(tmp_path / "together"))
    assert printed.count("5 added, 0 skipped; 5 items in") == 1
    alone, together = (TGDTIndex.open(tmp_path / name) for name in ("alone", "together"))
    assert sorted(together) == sorted(alone) and together.verify() == []
    for one, two in zip(alone.get(sorted(alone))[1], together.get(sorted(alone))[1], strict=True):
        assert abs(one - two).max() < 1e-3
