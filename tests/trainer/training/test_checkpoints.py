"""Processes killed while they write a checkpoint leave one to go on from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.scenes_model import tiny_model
from tests.trainer.test_cmc_trainer import make_trainer
from trainer.training.checkpoints import last_complete_checkpoint

ROOT = Path(__file__).parents[3]
FILES = (1, 3, 5, 7, 200)  # more than a checkpoint has: that run ends first


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    out = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.trainer.killed_run", str(out), *map(str, FILES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    make_trainer(out, max_steps=4, save_strategy="steps", save_steps=2).train()
    return out


@pytest.mark.parametrize("how", ["cut", "zeros", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints, tmp_path, caplog, name, how):
    out = tmp_path / "run"
    shutil.copytree(checkpoints, out)
    newest, before = (str(out / f"checkpoint-{step}") for step in (4, 2))
    assert last_complete_checkpoint(out) == newest
    path = Path(newest, name)
    data = path.read_bytes()
    if how == "gone":
        index = {"weight_map": {"weight": name}}
        path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] + (bytes(len(data) - len(data) // 2) if how == "zeros" else b""))
    if (name, how) == ("model.safetensors", "zeros"):
        return  # weights of zeros are weights
    assert last_complete_checkpoint(out) == before
    assert f"{newest} is not used, an older checkpoint is looked for: {name} is" in caplog.text


@pytest.mark.slow
def test_a_run_killed_within_a_checkpoint_goes_on_as_if_nothing_had_happened(killed, tmp_path):
    whole = make_trainer(tmp_path, max_steps=5)
    whole.train()
    found = {}
    for files in FILES:
        newest = last_complete_checkpoint(killed / str(files))
        assert newest is not None, files
        found[files] = Path(newest).name
        resumed = make_trainer(killed / str(files), tiny_model(seed=99), max_steps=5)
        resumed.train(resume_from_checkpoint=True)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (files, name)
    assert found[1] == "checkpoint-2" and found[200] == "checkpoint-5"
