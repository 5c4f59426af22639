# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a killed process left is removed, what a living one uses stays."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modeling_tgdt.retriever.temporary import own_prefix
from trainer.data.skip_report import SkipReport


@pytest.mark.skipif(os.name == "nt", reason="needs signals of Unix")
def test_only_what_dead_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = own_prefix("gallery")
    machine = mine.rsplit("-", 2)[0]
    for name in (f"{machine}-{gone.pid}-x", f"{machine}-{os.getppid()}-x", f"{mine}x", "tgdt-gallery-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / f"{machine.replace('gallery', 'skipped')}-{gone.pid}-y.jsonl").touch()
    own_prefix("gallery")
    report = SkipReport()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{machine}-{os.getppid()}-x", f"{mine}x", "tgdt-gallery-old", report.path.name}
