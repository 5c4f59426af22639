# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A retriever on ONNX graphs: same ranking, same gallery; what the graphs cannot do is said."""

from pathlib import Path

import numpy as np
import pytest

from modeling_tgdt import TGDTRetriever
from tests.tiny_retrieval import CAPTIONS, picture_folder, random_picture, tiny_retriever
from trainer.cli import main

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retriever with a gallery, and its export."""
    folder = tmp_path_factory.mktemp("onnx")
    retriever = tiny_retriever(num_local_layers=1, num_global_layers=1)  # the time of an export is that of its layers
    retriever.add_images(picture_folder(folder / "pictures", 5), progress=False)
    retriever.save_pretrained(folder / "torch")
    assert main(["--quiet", "export", str(folder / "torch"), "--output", str(folder / "exported")]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_graphs_rank_as_pytorch_does(root: Path, tmp_path: Path) -> None:
    torch_, onnx = (TGDTRetriever.from_pretrained(root / name) for name in ("torch", "exported"))
    assert type(onnx.model).__name__ == "OnnxModel"  # chosen, since there are no weights
    queries = [*CAPTIONS, random_picture(2), "dogs " * 20]
    for one, two in zip(torch_.search(queries), onnx.search(queries), strict=True):
        assert [hit.id for hit in one] == [hit.id for hit in two]
        np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in two], atol=1e-4)
    onnx.add_images([random_picture(number) for number in range(30, 33)], progress=False)
    assert len(onnx.index) == 8 and onnx.search("sea", explain=True)[0].matches
    onnx.save_pretrained(tmp_path / "again")
    again = TGDTRetriever.from_pretrained(tmp_path / "again", backend="onnx")
    assert [hit.id for hit in again.search("sea")] == [hit.id for hit in onnx.search("sea")]


@pytest.mark.slow
def test_what_the_graphs_cannot_do_is_said(root: Path, tmp_path: Path) -> None:
    onnx = TGDTRetriever.from_pretrained(root / "exported", backend="onnx")
    with pytest.raises(ValueError, match="boxes"):
        onnx.explain(random_picture(0), "sea")
    with pytest.raises(ValueError, match="CPU"):
        TGDTRetriever.from_pretrained(root / "exported", device="meta")
    with pytest.raises(ValueError, match="attn_implementation"):
        TGDTRetriever.from_pretrained(root / "exported", attn_implementation="eager")
    with pytest.raises(ValueError, match="tgdt export"):
        TGDTRetriever.from_pretrained(root / "torch", backend="onnx")
    with pytest.raises(ValueError, match="backend"):
        TGDTRetriever.from_pretrained(root / "torch", backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels"):
        tiny_retriever(vision=None).export_onnx(tmp_path / "regions")
    for argv in (["--format", "openvino"], []):  # the second: there is a model already
        assert main(["export", str(root / "torch"), "--output", str(root / "exported"), *argv]) == 2
