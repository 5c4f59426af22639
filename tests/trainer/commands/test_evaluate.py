"""`tgdt evaluate`: reductions, weights, sweep, and what it does with broken pictures."""

import json

import pytest
from PIL import Image

from modeling_tgdt.similarity_tgdt import ScoreConfig
from tests.trainer.scenes_model import processor, save_photos, scenes, tiny_model
from trainer import evaluate_grounding, load_captions, look_alike_accuracy
from trainer.cli import main
from trainer.evaluation import evaluate_retrieval, retrieval_metrics
from trainer.scenes import make_scenes
from trainer.scenes.splits import DRAWN
from trainer.scoring.encoding import EncodeOptions, encode_dataset

QUIET = EncodeOptions(progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, and 12 captioned pictures in a folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_model().save_pretrained(folder / "model")
    processor().save_pretrained(folder / "model")
    save_photos(folder / "photos")
    return folder


def evaluate(folder, *options, read=True):
    output = folder / "metrics.json"
    command = ["--quiet", "evaluate", "--model", str(folder / "model"), "--dataset", str(folder / "photos")]
    if "--output" not in options:
        options = ("--output", str(output), *options)
    assert main([*command, "--candidates", "4", *options]) == 0
    return json.loads(output.read_text()) if read else None


def untimed(results):
    return {
        mode: {name: value for name, value in metrics.items() if "query_ms" not in name}
        for mode, metrics in results.items()
    }


def test_summed_and_averaged_words_come_from_one_call(folder, capsys):
    found = untimed(evaluate(folder, "--reduction", "mean", "sum"))
    assert list(found) == sorted(found) and set(found) == {
        "global", *(f"{mode}_{how}" for mode in ("local", "exhaustive", "two_stage") for how in ("mean", "sum")),
    }  # fmt: skip
    embeddings = encode_dataset(tiny_model().eval(), processor(), load_captions(folder / "photos"), QUIET)
    for how in ("mean", "sum"):
        modes = ["local", "exhaustive", "two_stage"]
        expected = retrieval_metrics(embeddings, score=ScoreConfig(reduction=how), modes=modes, candidates=4)
        for mode in modes:
            assert found[f"{mode}_{how}"] == expected[mode]
    assert found["local_mean"] != found["local_sum"]
    assert "| local_sum |" in capsys.readouterr().out


def test_the_model_decides_when_nothing_is_asked(folder):
    found = untimed(evaluate(folder))
    photos = load_captions(folder / "photos")
    modes = ("global", "local", "exhaustive", "two_stage")
    options = {"candidates": 4, "timed_queries": 0, "options": QUIET}
    assert found == evaluate_retrieval(tiny_model(), processor(), photos, modes=modes, **options)


def test_the_weight_of_tokens_can_be_replaced(folder):
    found = evaluate(folder, "--local-weight", "0", "--modes", "global", "exhaustive")
    assert found["exhaustive"]["rsum"] == found["global"]["rsum"]


def test_sweep_is_a_table_json_and_a_plot(folder, capsys):
    evaluate(folder, "--modes", "global", "--sweep", "2", "5", "500")
    rows = json.loads((folder / "metrics.sweep.json").read_text())
    assert [row["candidates"] for row in rows] == [2, 5, sum(map(len, scenes(12, 3)["captions"]))]
    assert rows[-1]["stage1_recall"] == 100.0 and "| candidates |" in capsys.readouterr().out
    with Image.open(folder / "metrics.sweep.png") as picture:
        assert min(picture.size) > 200


def test_sweeps_of_dotted_names_do_not_overwrite_each_other(folder, tmp_path):
    for seed in ("0", "1"):
        options = ["--modes", "global", "--sweep", "2", "--output", str(tmp_path / f"results.seed{seed}.json")]
        evaluate(folder, *options, read=False)
    names = {path.name for path in tmp_path.iterdir()}
    kinds = ("json", "sweep.json", "sweep.png")
    assert names == {f"results.seed{seed}.{kind}" for seed in "01" for kind in kinds}


def test_broken_pictures_stop_or_are_listed(folder, tmp_path, capsys):
    broken = tmp_path / "photos"
    broken.mkdir()
    for file in (folder / "photos").iterdir():
        (broken / file.name).write_bytes(file.read_bytes() if file.name != "3.png" else file.read_bytes()[:60])
    command = ["evaluate", "--model", str(folder / "model"), "--dataset", str(broken), "--modes", "global"]
    assert main(command) == 2
    assert "'3.png' cannot be read" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 0
    assert "11 photos" in (out := capsys.readouterr().out) and "1 items skipped (3.png" in out


def test_scenes_are_drawn_and_get_their_tables(folder, capsys, monkeypatch):
    monkeypatch.setitem(DRAWN, "scenes", {"validation": (6, 1, 1)})
    output = folder / "scenes.json"
    command = ["--quiet", "evaluate", "--model", str(folder / "model"), "--dataset", "scenes", "--modes", "global"]
    assert main([*command, "--grounding", "--output", str(output)]) == 0
    found, printed, drawn = json.loads(output.read_text()), capsys.readouterr().out, make_scenes(6, 1)
    assert found["look_alikes"] == look_alike_accuracy(tiny_model(), processor(), drawn, options=QUIET)
    assert found["grounding"] == evaluate_grounding(tiny_model(), processor(), drawn)
    assert "| look-alikes told apart (guessing 50) | global | tokens | mixed |" in printed
    assert f"| shape | {found['grounding']['shape']['nearest']:.1f} |" in printed
