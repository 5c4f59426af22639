# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The whole cycle against a loopback Hub: push, push again, add a segment, pull in fresh processes, offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hub_cards.cards import MARKER
from tests.hub_cards.recording_hub import RecordingHub, recording_hub
from tests.tiny_retrieval import CAPTIONS, random_picture, tiny_retriever
from trainer.cli import main

ROOT = Path(__file__).parents[3]
FULL, APART, GALLERY, TRAINED = (f"tester/{name}" for name in ("full", "apart", "gallery", "trained"))

PUSHER = """
import contextlib, io, json, os, sys
from dataclasses import asdict
from modeling_tgdt import TGDTRetriever
from tests.tiny_retrieval import CAPTIONS, random_picture
from tests.trainer.scenes_model import processor, scenes, tiny_model
from trainer import CMCTrainer, CMCTrainingArguments
from trainer.cli import main

folder, report = sys.argv[1], {}

def search():
    found = TGDTRetriever.from_pretrained(folder).search(CAPTIONS)
    return [[asdict(hit) for hit in hits] for hits in found]

def push(name, *words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--quiet", "push", folder, *words])
    report[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue().strip().splitlines()}

push("first", "tester/full")
report["hits before"] = search()
push("again", "tester/full")
TGDTRetriever.from_pretrained(folder).add_images([random_picture(9)], ids=["new"], progress=False)
report["hits after"] = search()
push("added", "tester/full")
push("apart", "tester/apart", "--gallery-repo", "tester/gallery", "--private")
push("apart again", "apart", "--gallery-repo", "gallery")  # names without their owner
os.environ["HF_TOKEN"] = "hf_wrong"
push("wrong token", "tester/full")
del os.environ["HF_TOKEN"]
push("no token", "tester/full")
os.environ["HF_TOKEN"] = "hf_dummy"
TGDTRetriever.from_pretrained(folder).add_images([random_picture(10)], ids=["lost"], progress=False)
push("broken off", "tester/full", "--message", "break off")
arguments = CMCTrainingArguments(folder + "-trained", hub_model_id="tester/trained", report_to=[], use_cpu=True,
                                 max_steps=1, disable_tqdm=True, save_strategy="no")
trainer = CMCTrainer(tiny_model(), arguments, train_dataset=scenes(8), eval_dataset=scenes(4, 1),
                     processing_class=processor())
trainer.train()
trainer.evaluate()
trainer.push_to_hub()
print(json.dumps(report))
"""

PULLER = """
import json, sys
from dataclasses import asdict
from huggingface_hub import snapshot_download
from modeling_tgdt import TGDTRetriever
from tests.tiny_retrieval import CAPTIONS

revision = sys.argv[1]

def hits(source, **options):
    retriever = TGDTRetriever.from_pretrained(source, **options)
    return [[asdict(hit) for hit in found] for found in retriever.search(CAPTIONS)]

print(json.dumps({
    "newest": hits("tester/full"),
    "pinned": hits("tester/full", revision=revision),
    "apart": hits(snapshot_download("tester/gallery", repo_type="dataset")),
}))
"""


def run_script(script: str, arguments: list[str], environment: dict[str, str]) -> Any:
    """Run Python in a process of its own and return the JSON of its last line."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("cycle")
    retriever = tiny_retriever()
    retriever.create_index(segment_rows=3)  # full: the next picture begins a new segment
    retriever.add_images([random_picture(seed) for seed in range(3)], progress=False)
    retriever.save_pretrained(root / "model")
    (root / "model" / "training_args.bin").write_bytes(b"a pickle")
    with recording_hub() as hub:
        pushed = run_script(PUSHER, [str(root / "model")], hub.environment | {"HF_HOME": str(root / "own")})
        first = re.search(r"commit/(\w+)", pushed["first"]["out"])
        assert first is not None
        online = hub.environment | {"HF_HOME": str(root / "empty")}
        pulled = run_script(PULLER, [first[1]], online)
        gone = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
        offline = run_script(PULLER, [first[1]], online | gone)
        yield SimpleNamespace(hub=hub, pushed=pushed, pulled=pulled, offline=offline, folder=root / "model")


def commits(hub: RecordingHub, repository: str) -> list[tuple[list[str], list[str]]]:
    return [(added, deleted) for name, added, deleted in hub.log if name == repository]


@pytest.mark.slow
def test_one_commit_holds_everything(cycle: Any) -> None:
    added, deleted = commits(cycle.hub, FULL)[0]
    expected = {"README.md", "config.json", "model.safetensors", "processor_config.json", "modeling_tgdt.py"}
    assert expected | {"tokenizer.json", "index/manifest.json"} <= set(added)
    assert deleted == []
    assert not [name for name in added if name.endswith((".bin", ".lock"))]
    assert json.loads(cycle.hub.text(FULL, "config.json"))["auto_map"]["AutoModel"] == "modeling_tgdt.TGDTModel"
    assert cycle.pushed["first"]["code"] == 0 and "gallery of 3 items" in cycle.pushed["first"]["out"]


@pytest.mark.slow
def test_only_what_is_new_is_sent(cycle: Any) -> None:
    """Three pushes made two commits: the second push sent nothing, the third one segment and the manifest."""
    assert cycle.pushed["again"]["code"] == cycle.pushed["added"]["code"] == 0
    assert len(commits(cycle.hub, FULL)) == 2
    added, deleted = commits(cycle.hub, FULL)[1]
    first, _ = commits(cycle.hub, FULL)[0]
    folders = {name.split("/")[1] for name in added}
    assert deleted == [] and all(name.startswith("index/") for name in added)
    assert len(folders - {"manifest.json"}) == 1 and not set(added) & (set(first) - {"index/manifest.json"})


@pytest.mark.slow
def test_a_fresh_process_finds_the_same(cycle: Any) -> None:
    assert cycle.pulled["newest"] == cycle.pushed["hits after"]
    assert cycle.pulled["pinned"] == cycle.pushed["hits before"] != cycle.pushed["hits after"]
    assert cycle.pulled["apart"] == cycle.pushed["hits after"]
    assert len(cycle.pulled["newest"]) == len(CAPTIONS)


@pytest.mark.slow
def test_offline_from_the_cache(cycle: Any) -> None:
    assert cycle.offline == cycle.pulled


@pytest.mark.slow
def test_a_gallery_of_its_own(cycle: Any) -> None:
    ((model, _),) = commits(cycle.hub, APART)
    ((gallery, _),) = commits(cycle.hub, f"dataset.{GALLERY}")
    assert not any(name.startswith("index/") for name in model)
    assert {"README.md", "retriever.json", "index/manifest.json"} <= set(gallery)
    assert json.loads(cycle.hub.text(f"dataset.{GALLERY}", "retriever.json"))["model"] == APART
    assert f'snapshot_download("{GALLERY}", repo_type="dataset")' in cycle.hub.text(f"dataset.{GALLERY}", "README.md")
    assert cycle.pushed["apart again"]["code"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong token", "does not accept the token (status 401)"),
        ("no token", "needs a Hub token, found none"),
        ("broken off", "What it holds is unchanged"),
    ],
)
def test_a_refusal_is_one_line(cycle: Any, name: str, message: str) -> None:
    result = cycle.pushed[name]
    lines = [line for line in result["err"] if "it/s]" not in line and line]
    assert result["code"] == 2 and len(lines) == 1
    assert lines[0].startswith("tgdt push: error: ") and message in lines[0]


@pytest.mark.slow
def test_a_trainer_pushes_our_card(cycle: Any) -> None:
    card = cycle.hub.text(TRAINED, "README.md")
    assert MARKER in card and f'from_pretrained("{TRAINED}")' in card
    # Started by `python -c`: no command makes these numbers again, so there are none.
    assert "## Results" not in card and "## Training" in card


def test_what_cannot_be_pushed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.publishing.publish.check_token", lambda: None)
    assert main(["push", str(tmp_path / "none"), "user/name"]) == 2
    assert "Expected a directory with a model" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "user/name"]) == 2
    assert "config.json" in capsys.readouterr().err
    tiny_retriever().save_pretrained(tmp_path)
    assert main(["push", str(tmp_path), "user/name", "--gallery-repo", "user/gallery"]) == 2
    assert "Expected a gallery" in capsys.readouterr().err
