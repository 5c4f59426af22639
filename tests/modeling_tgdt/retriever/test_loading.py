# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What is loaded for a runtime lies in the model's directory."""

from pathlib import Path

import pytest

from modeling_tgdt.retriever.loading import load_backend


@pytest.mark.parametrize("name", ["text/model.onnx", "image/model.onnx_data", "more"])
def test_graphs_behind_links_are_refused(tmp_path: Path, name: str) -> None:
    """They would be copied by `save_pretrained` and pushed, wherever they lead."""
    for graph in ("text/model.onnx", "image/model.onnx"):
        (tmp_path / "onnx" / graph).parent.mkdir(parents=True)
        (tmp_path / "onnx" / graph).write_text("graph")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    (tmp_path / "onnx" / name).unlink(missing_ok=True)
    (tmp_path / "onnx" / name).symlink_to(tmp_path / "secret" / ("" if name == "more" else "file"))
    with pytest.raises(ValueError, match="not a regular file"):
        load_backend(tmp_path, "onnx")
