"""The command line over a pretrained dual encoder: search without training, fine-tune, merge, what was forgotten."""

import json

import pytest
import torch
import yaml

from modeling_tgdt import TGDTModel
from modeling_tgdt.retriever.loading import load_pretrained
from tests.modeling_tgdt.dual_encoders import save_dual_encoder
from tests.trainer.scenes_model import save_photos
from trainer.cli import main
from trainer.training.interpolation import interpolate_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP on disk, and 12 captioned pictures."""
    folder = tmp_path_factory.mktemp("dual")
    save_dual_encoder("clip", folder / "clip")
    save_photos(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def tuned(folder):
    recipe = {
        "description": "two steps",
        "model": {"hidden_dropout_prob": 0.0, "local_score_weight": 1.0},
        "training": {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "disable_tqdm": True},
    }
    (folder / "two.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--recipe", str(folder / "two.yaml"), "--dataset", str(folder / "photos")]
    assert (
        main(["--quiet", "train", *options, "--model", str(folder / "clip"), "--output", str(folder / "tuned")]) == 0
    )
    return folder / "tuned"


def test_two_commands_search_a_folder(folder, capsys):
    gallery = str(folder / "gallery")
    assert main(["--quiet", "index", str(folder / "photos"), "--model", str(folder / "clip"), "--out", gallery]) == 0
    assert "tokens of this model are untrained" in capsys.readouterr().out
    assert main(["search", gallery, "a red car", "--top-k", "3", "--json"]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(hits) == 3 and all(hit["score"] == hit["global_score"] for hit in hits)
    for argv in (["--top-k", "3", "--json", "a", "red", "car"], ["a", "red", "--json", "--top-k", "3", "car"]):
        assert main(["search", gallery, *argv]) == 0
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == hits
    for argv in (["-car"], ["--jsonn", "car"]):
        with pytest.raises(SystemExit, match="2"):
            main(["search", gallery, *argv])
        assert f"unrecognized arguments: {argv[0]}" in capsys.readouterr().err
    assert main(["search", gallery, "--top-k", "1", "--", "-car"]) == 0
    assert main(["search", gallery, "car", "--sheet", f"{gallery}.png", "--pictures", f"{gallery}/none"]) == 2
    assert "found no folder. Pass --pictures DIR" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert main(["index", str(folder / "empty"), "--model", str(folder / "clip"), "--out", gallery + "-none"]) == 2
    assert "Nothing was indexed: found no readable picture in" in capsys.readouterr().err


def test_fine_tuning_starts_at_the_dual_encoder(folder, tuned):
    start, end = TGDTModel.from_dual_encoder_pretrained(str(folder / "clip")), TGDTModel.from_pretrained(tuned)
    assert end.config.image_global_token == "pooled" and end.config.local_score_weight == 1
    assert end.config.temperature == start.config.temperature
    moved = (end.visual_projection.weight - start.visual_projection.weight).abs().max()
    assert 0 < moved < 0.1


def test_merged_weights_lie_between(folder, tuned, capsys):
    start, _ = load_pretrained(str(folder / "clip"))
    end = TGDTModel.from_pretrained(tuned)
    first, last = start.state_dict(), end.state_dict()
    for alpha in (0.0, 0.25, 1.0):
        merged = interpolate_models(start, end, alpha).state_dict()
        for name, value in merged.items():
            expected = (1 - alpha) * first[name] + alpha * last[name]
            torch.testing.assert_close(value, expected.to(value.dtype), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="from 0 .* to 1"):
        interpolate_models(start, end, 1.5)
    with pytest.raises(ValueError, match=r"one shape, found \d+ weights that differ"):
        interpolate_models(TGDTModel.from_dual_encoder_pretrained(str(folder / "clip"), num_local_layers=1), end, 0.5)

    out = str(folder / "between")
    assert main(["merge", str(folder / "clip"), str(tuned), "--alpha", "0", "--out", out]) == 0
    data = ["--dataset", str(folder / "photos"), "--modes", "global", "--output", str(folder / "metrics.json")]
    assert main(["--quiet", "evaluate", "--model", out, "--baseline", str(folder / "clip"), *data]) == 0
    assert "rsum against the baseline: global +0.0" in capsys.readouterr().out
    results = json.loads((folder / "metrics.json").read_text())
    assert results["global"]["rsum"] == results["baseline_global"]["rsum"]
