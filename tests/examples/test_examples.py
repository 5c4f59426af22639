# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Every example runs on tiny data, shows what its README says, and stays short."""

import ast
import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from examples import (
    draw_pictures,
    embed_with_a_checkpoint,
    evaluate_the_authors_checkpoint,
    export_to_onnx,
    fine_tune_on_my_captions,
    gallery_on_qdrant,
    rerank_a_shortlist,
    search_my_photos,
)
from modeling_tgdt import TGDTRetriever
from tests.examples.conftest import QUERY
from tests.trainer.scenes_model import processor, tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_are_short_guarded_and_listed(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) < 100 and lines[-2:] == ['if __name__ == "__main__":', "    main()"]
    assert f"python examples/{script.name}" in (ast.get_docstring(ast.parse(script.read_text())) or "")
    assert f"]({script.name})" in (EXAMPLES / "README.md").read_text()


def test_draw_pictures(pictures: Path) -> None:
    with (pictures / "captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file_name"] for row in rows} == {path.name for path in pictures.glob("*.png")}
    assert len(list(pictures.glob("*.png"))) == 12 and all(row["caption"] for row in rows)


def test_search_my_photos(pictures: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    draw_pictures.main([str(photos), "--count", "4"])
    (photos / "broken.jpg").write_bytes(b"no picture")
    arguments = [str(photos), QUERY, "--model", model, "--gallery", str(tmp_path / "gallery")]
    first = search_my_photos.main(arguments)
    assert "4 new photos, 0 known, 1 unreadable" in capsys.readouterr().out
    assert first == search_my_photos.main(arguments)
    assert "0 new photos, 4 known, 1 unreadable" in capsys.readouterr().out
    with Image.open(tmp_path / "gallery" / "best.png") as picture:
        assert picture.width > 100


def test_fine_tune_on_my_captions(pictures: Path, backbones: tuple[str, str], tmp_path: Path) -> None:
    vision, text = backbones
    output = tmp_path / "my-model"
    options = ["--epochs", "1", "--batch-size", "4", "--output", str(output)]
    metrics = fine_tune_on_my_captions.main([str(pictures), "--vision", vision, "--text", text, *options])
    assert set(metrics) == {"global", "local", "two_stage"}
    assert search_my_photos.main(
        [str(pictures), QUERY, "--model", str(output), "--gallery", str(tmp_path / "gallery")]
    )
    again = fine_tune_on_my_captions.main([str(pictures), "--model", str(output), *options])
    assert again.keys() == metrics.keys()


def test_embed_with_a_checkpoint(pictures: Path, model: str) -> None:
    files = sorted(pictures.glob("*.png"))
    found = embed_with_a_checkpoint.main([model, str(files[0]), QUERY, "a ring"])
    with Image.open(files[0]) as picture:
        expected = tiny_model().eval()(**processor()(images=[picture], text=[QUERY, "a ring"], return_tensors="pt"))
    assert np.allclose(found.numpy(), expected.logits_per_image.detach().numpy(), atol=1e-5)


def test_evaluate_the_authors_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = evaluate_the_authors_checkpoint.main([])
    out = capsys.readouterr().out
    assert set(metrics) == {"global", "local", "two_stage"}
    assert out.strip() in (EXAMPLES / "README.md").read_text()  # no training, no chance: the same numbers everywhere


@pytest.mark.parametrize("own", [True, False], ids=["clip", "tgdt"])
def test_rerank_a_shortlist(pictures: Path, model: str, tmp_path: Path, own: bool) -> None:
    arguments = [str(pictures), QUERY, "--model", model, "--candidates", "5"]
    if own:
        save_clip(tmp_path)
        arguments += ["--first-stage", str(tmp_path)]
    shortlist, reranked = rerank_a_shortlist.main(arguments)
    assert len(shortlist) == 5 and sorted(reranked) == sorted(shortlist)
    retriever = TGDTRetriever.from_pretrained(model)
    retriever.add_images([pictures / name for name in shortlist], ids=shortlist, progress=False)
    assert reranked == [hit.id for hit in retriever.search(QUERY)]


def save_clip(folder: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = small | {"vocab_size": len(processor().tokenizer), "eos_token_id": 3, "bos_token_id": 2}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=8)
    ).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPProcessor(CLIPImageProcessor(size=side, crop_size=side), processor().tokenizer).save_pretrained(folder)


def test_gallery_on_qdrant(pictures: Path, model: str, tmp_path: Path) -> None:
    arguments = [str(pictures), QUERY, "--model", model, "--gallery", str(tmp_path / "qdrant")]
    hits = gallery_on_qdrant.main(arguments)
    assert [hit.id for hit in gallery_on_qdrant.main([*arguments, "--format", ".png"])] == [hit.id for hit in hits]
    assert gallery_on_qdrant.main([*arguments, "--format", ".jpg"]) == []
    exact = TGDTRetriever.from_pretrained(model)
    exact.add_images(pictures, progress=False)
    assert [hit.id for hit in exact.search(QUERY, top_k=5)] == [hit.id for hit in hits]


@pytest.mark.slow
def test_export_to_onnx(pictures: Path, model: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    result = export_to_onnx.main([str(pictures), QUERY, "a blue ring", "--model", model, "--output", str(tmp_path)])
    assert result["onnx"].shape == (12, 2)
    np.testing.assert_allclose(result["onnx"], result["torch"], atol=1e-5)
    assert np.array_equal(result["onnx"].argsort(0), result["torch"].argsort(0))


def test_the_readme_lists_nothing_else() -> None:
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in SCRIPTS}
