# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Cards: what they say and leave out, front matter that the Hub takes, code blocks that run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, constants
from huggingface_hub.repocard import RepoCard, SpaceCard

from hub_cards.cards import (
    MARKER,
    gallery_card,
    metric_card,
    model_card,
    read_record,
    space_card,
    write_model_card,
)
from hub_cards.privacy import mask_tokens, public_command
from hub_cards.results import eval_result_entries
from hub_cards.sources import data_source
from tests.hub_cards.recording_hub import recording_hub
from tests.tiny_retrieval import picture_folder, random_picture, tiny_model, tiny_processor, tiny_retriever
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.publishing.model_card import front_matter, trainer_record
from trainer.publishing.publish import _copy_records
from trainer.publishing.recipe_cards import FOLDER, RECIPES, recipe_card, write_recipe_cards
from trainer.publishing.recipe_cards import main as write_named_cards

SWEEP = [{"candidates": 10.0, "rsum": 300.5, "query_ms": 1.5}, {"candidates": 50.0, "rsum": 321.25, "query_ms": 2.5}]
RECORD: dict[str, Any] = {
    "command": "tgdt train --recipe f30k --dataset /data/me/dataset_flickr30k.json --output /data/me/out",
    "recipe": {
        "text_model": "google-bert/bert-base-uncased",
        "eval_split": "test",
        "training": {"learning_rate": 0.1},
    },
    "protocol": "f30k",
    "seed": 3,
    "parameters": 1234567,
    "results": {
        "global": {"i2t_r1": 11.5, "t2i_r1": 12.25, "rsum": 100.125},
        "two_stage": {"i2t_r1": 21.5, "t2i_r1": 22.25, "rsum": 200.0, "stage1_recall": 91.5, "query_ms": 3.5},
    },
    "hardware": "2 CPU cores",
    "shortlist_sweep": SWEEP,
}


def sections(card: RepoCard) -> dict[str, str]:
    """Return the text under each heading."""
    parts = re.split(r"^##+ (.+)$", card.text, flags=re.M)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)


def test_a_full_record_gives_a_full_card() -> None:
    card = model_card(RECORD, "user/model", license="mit")
    found = sections(card)
    assert list(found) == [
        "How to load", "Architecture", "Results", "Shortlist", "Training", "Data and licences", "Intended use",
        "Limits", "Citation",
    ]  # fmt: skip
    assert all(found.values()) and MARKER in card.text
    assert "| global | 11.5 |" in found["Results"] and "| two_stage | 21.5 |" in found["Results"]
    assert "Protocol `f30k`" in found["Results"] and "Split `test` of Flickr30K, seed 3" in found["Results"]
    assert "tgdt train --recipe f30k --dataset dataset_flickr30k.json --output out" in found["Results"]
    assert "| 50 | 321.25 | 2.50 |" in found["Shortlist"] and "2 CPU cores" in found["Training"]
    assert "1,234,567" in found["Architecture"] and "/data/me" not in str(card)
    assert card.data.license == "mit" and card.data.base_model == ["google-bert/bert-base-uncased"]


def test_results_are_read_back_from_the_front_matter() -> None:
    card = ModelCard(str(model_card(RECORD, "user/model")))
    assert str(card) == str(model_card(RECORD, "user/model"))
    assert card.data.model_name == "model" and card.data.datasets == ["nlphuji/flickr30k"]
    found = {(entry.metric_config, entry.metric_type): entry for entry in card.data.eval_results}
    assert len(found) == 6
    entry = found["two_stage", "rsum"]
    assert (entry.metric_value, entry.dataset_config, entry.dataset_split) == (200.0, "protocol f30k", "test")


def test_results_as_files_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    write_model_card(tmp_path, "user/model")
    entries = yaml.safe_load((tmp_path / ".eval_results" / "flickr30k.yaml").read_text())
    assert entries[0]["dataset"] == {"id": "nlphuji/flickr30k", "task_id": "f30k_global_i2t_r1"}
    assert entries[0]["value"] == 11.5 and "mode global, protocol f30k, split test" in entries[0]["notes"]
    assert "made by: tgdt train" in entries[0]["notes"] and len(entries) == 6
    assert eval_result_entries({**RECORD, "command": "tgdt demo", "recipe": {}}, data_source({})) == []


def test_no_number_without_its_command() -> None:
    card = model_card({**RECORD, "command": None}, "user/model")
    assert not {"Results", "Shortlist"} & set(sections(card))
    assert card.data.eval_results is None and "11.5" not in str(card)


def test_an_empty_record_leaves_no_empty_section() -> None:
    card = model_card({}, "user/model")
    assert list(sections(card)) == ["How to load", "Intended use", "Limits", "Citation"]
    assert all(sections(card).values()) and not re.search(r"None|\{\{|\{%", str(card))


def test_a_card_that_somebody_edited_stays(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    path = write_model_card(tmp_path)
    assert path is not None and write_model_card(tmp_path, "user/other") == path
    assert "user/other" in path.read_text()
    path.write_text(path.read_text().replace(MARKER, "mine"))
    assert write_model_card(tmp_path, "user/third") is None
    assert "mine" in path.read_text() and "user/third" not in path.read_text()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json' is damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"command": "tgdt train --recipe flickr8k --dataset /data/flickr8k"}, "Flickr8k"),
        ({"command": "tgdt train --recipe flickr8k --dataset photos"}, None),
        ({"command": "tgdt train --recipe flickr8k --dataset user/photos"}, "user/photos"),
        ({"command": "tgdt demo", "recipe": {"dataset": "scenes"}}, "Scenes"),
        ({"recipe_name": "coco"}, "COCO Captions"),
        ({"dataset": "scenes"}, "Scenes"),
        ({"dataset": "./scenes", "recipe": {"dataset": "scenes"}}, None),
        ({"command": "tgdt train --recipe flickr8k --dataset /data/street_scenes"}, None),
        ({"command": "tgdt train --recipe coco --dataset /home/coco/mine"}, None),
        ({"command": "tgdt train --recipe coco --dataset someone/coconut-photos"}, "someone/coconut-photos"),
        ({"command": "tgdt train --recipe coco --dataset someone/coco"}, "someone/coco"),
        ({"command": "tgdt train --recipe coco --dataset yerevann/coco-karpathy"}, "COCO Captions"),
        ({"dataset": "./captions_coco2017.json"}, "COCO Captions"),
        ({}, None),
    ],
)
def test_data_are_named_only_when_known(record: dict[str, Any], name: str | None) -> None:
    source = data_source(record)
    assert (source and source.name) == name


def test_a_card_names_the_photos_that_were_held_out() -> None:
    card = model_card({**RECORD, "evaluated": "12 held-out photos of 120"}, "user/model")
    assert "Split `12 held-out photos of 120` of Flickr30K, seed 3" in sections(card)["Results"]
    assert {entry.dataset_split for entry in card.data.eval_results or []} == {"12 held-out photos of 120"}


def test_a_fine_tuned_model_is_not_described_by_its_recipe() -> None:
    recipe = {**RECORD["recipe"], "vision_model": "microsoft/resnet-50", "description": "A ResNet-50."}
    config = {"text_config": {"model_type": "bert"}, "vision_config": None, "region_feature_size": 2048}
    tuned = {**RECORD, "recipe": recipe, "model": "./a", "base_models": ["someone/text"]}
    card = model_card(tuned, "user/model", config=config)
    assert card.data.base_model == ["someone/text"]
    assert not re.search("bert-base-uncased|resnet|ResNet", str(card))
    assert "`bert`" in sections(card)["Architecture"] and "regions=[regions]" in card.text


def test_tokens_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "aB3" * 11
    for given in (
        f"--hub_token={token}",
        "--hub-token secret",
        "--token secret",
        f"--x {token}",
        f"a.hub_token={token}",
    ):
        assert not re.search("secret|aB3", public_command(f"tgdt train {given}"))
    assert mask_tokens("--set model.text_global_token=mean --token-dtype int8").endswith("=mean --token-dtype int8")
    record = {**RECORD, "command": f"python mine.py --hub_token {token}", "recipe": {"training": {"hub_token": token}}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "out").mkdir()
    _copy_records(tmp_path, tmp_path / "out")
    published = json.loads((tmp_path / "out" / "run.json").read_text())
    assert published["command"] == "python mine.py --hub_token ***" and token not in str(published)
    monkeypatch.setattr(sys, "argv", ["mine.py", "--hub_token", token])
    trainer = CMCTrainer(
        model=tiny_model(),
        args=CMCTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[]),
        processing_class=tiny_processor(),
    )
    assert trainer_record(trainer)["command"] == "python mine.py --hub_token ***"


def test_commands_lose_the_folders_of_the_machine() -> None:
    assert public_command("tgdt train --set a=/x/y/z --model ../secret/m") == "tgdt train --set a=z --model m"


def test_arguments_of_the_trainers_method() -> None:
    assert front_matter("de", tags="own", dataset_tags=["user/data"]) == {
        "language": "de", "tags": "own", "datasets": ["user/data"],
    }  # fmt: skip
    with pytest.raises(TypeError):
        front_matter(licence="mit")


def test_cards_validate_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = tiny_retriever()
    retriever.add_images([random_picture(0)], progress=False)
    assert retriever.index is not None
    gallery = gallery_card(retriever.index, "user/gallery", "user/model")
    assert "1 image" in gallery.text and "https://huggingface.co/user/model" in gallery.text
    cards = [model_card(RECORD, "user/model"), gallery, metric_card(), space_card("user/space", "user/model")]
    cards += [recipe_card(name) for name in RECIPES]
    with recording_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        for card in cards:
            card.validate()
        with pytest.raises(ValueError, match="front matter"):
            ModelCard("---\nlicense: other\n---\n").validate()
    for card, kind in zip(cards, (ModelCard, DatasetCard, RepoCard, SpaceCard), strict=False):
        path = tmp_path / "card.md"
        card.save(path)
        assert kind.load(path).data.to_dict() == card.data.to_dict()


def test_recipe_cards_are_the_written_ones(tmp_path: Path) -> None:
    for path in write_recipe_cards(tmp_path):
        assert path.read_text() == (FOLDER / path.parent.name / "README.md").read_text(), (
            "python -m trainer.publishing.recipe_cards"
        )


def test_a_recipe_card_takes_the_results_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    assert "Results" in sections(recipe_card("f30k", tmp_path))
    assert "Results" not in sections(recipe_card("coco"))
    with pytest.raises(ValueError, match=r"no run\.json"):
        recipe_card("coco", tmp_path / "none")


def test_the_record_of_a_run_is_kept_without_its_folders(tmp_path: Path) -> None:
    """A card is written again from the kept record, word for word, and neither names a folder of the machine."""
    recipe = {**RECORD["recipe"], "vision_model": "/data/private/resnet"}
    command = "tgdt train --recipe f30k --dataset /data/private/flickr30k"
    (tmp_path / "run.json").write_text(json.dumps({**RECORD, "recipe": recipe, "command": command}))
    write_recipe_cards(tmp_path / "cards", {"f30k": tmp_path})
    kept = tmp_path / "cards" / "f30k"
    assert "private" not in (kept / "run.json").read_text() + (kept / "README.md").read_text()
    recipe_card("f30k", kept).save(tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == (kept / "README.md").read_text()
    assert not (tmp_path / "cards" / "coco" / "run.json").exists()


def test_the_command_writes_the_cards_of_named_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("trainer.publishing.recipe_cards.write_recipe_cards", lambda runs: asked.append(runs))
    write_named_cards(["f30k=runs/7", "coco=runs/a=b"])
    assert asked == [{"f30k": "runs/7", "coco": "runs/a=b"}]
    for bad in ("f30k", "unknown=runs/7"):
        with pytest.raises(ValueError, match="Expected RECIPE=RUN_DIR"):
            write_named_cards([bad])


RUNNER = """
import pathlib, sys
for name in sys.argv[1:]:
    exec(compile(pathlib.Path(name).read_text(), name, "exec"), {})
"""


@pytest.mark.slow
def test_code_blocks_run_as_they_stand(tmp_path: Path) -> None:
    picture_folder(tmp_path / "photos", 2)
    random_picture(5).save(tmp_path / "photo.jpg")
    tiny_retriever().save_pretrained(tmp_path / "pixels")
    tiny_retriever(vision=None).save_pretrained(tmp_path / "regions")
    filled = tiny_retriever()
    filled.add_images(tmp_path / "photos", progress=False)
    filled.save_pretrained(tmp_path / "filled")
    names = []
    for folder in ("pixels", "regions", "filled"):
        written = write_model_card(tmp_path / folder)
        assert written is not None
        for number, block in enumerate(python_blocks(written.read_text())):
            names.append(f"{folder}-{number}.py")
            (tmp_path / names[-1]).write_text(block)
    assert len(names) == 6
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, *names],
        cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "000.png" in result.stdout and result.stdout.count("tensor(") == 3
