"""Two gloo processes train and evaluate like one process on the joined batch."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modeling_tgdt.objectives_tgdt import PairEmbeddings
from tests.trainer.scenes_model import scenes
from trainer import distributed
from trainer.data_collator import image_id_tensor

ROOT = Path(__file__).parents[2]


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node"],
    # --multi_gpu is what starts several processes; without accelerators they talk through gloo all the same
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0", "--num_processes"],
}


def run(launcher: str, processes: int, *module_and_arguments: str) -> str:
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(processes), "-m", *module_and_arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def launch(
    out: Path, processes: int, per_device: int, mini_batch_size: int, launcher: str = "torchrun"
) -> tuple[dict, list, dict, str]:
    run(launcher, processes, "tests.trainer.two_processes", str(out), str(per_device), str(mini_batch_size))
    with safe_open(out, "pt") as file:
        notes = file.metadata()
    assert notes["mined"]
    return load_file(out), json.loads(notes["losses"]), json.loads(notes["metrics"]), notes["mined"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one") / "one.safetensors", 1, 8, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mini_batch_size", "launcher"),
    [(0, "torchrun"), (2, "accelerate")],
    ids=["whole, torchrun", "cached, accelerate"],
)
def test_two_processes_equal_one(tmp_path, one_process, mini_batch_size, launcher):
    one, losses, metrics, mined = one_process
    two, losses_two, metrics_two, mined_two = launch(tmp_path / "two.safetensors", 2, 4, mini_batch_size, launcher)
    assert losses_two == pytest.approx(losses, rel=1e-4)
    assert metrics_two == pytest.approx(metrics, rel=1e-5)
    assert mined_two == mined  # the neighbours of every photo, for the second epoch
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_two_processes_share_a_stream_and_draw_new_captions_each_epoch(tmp_path):
    run("torchrun", 2, "tests.trainer.two_process_data", str(tmp_path / "seen"))
    found = [json.loads((tmp_path / f"seen.{rank}").read_text()) for rank in range(2)]
    photos = [image_id for part in found for ids, _ in part["stream"] for image_id in ids]
    assert len(photos) == len(set(photos)) == len(scenes())  # three steps of two times four photos: all, once
    for part in found:
        assert len(part["epochs"]) == 9  # three epochs of three
    drawn = [
        {(image_id, *words) for part in found for ids, texts in part["epochs"][start : start + 3]
         for image_id, words in zip(ids, (strip(text) for text in texts), strict=True)}
        for start in (0, 3, 6)
    ]  # fmt: skip
    assert {len(epoch) for epoch in drawn} == {len(scenes())}
    assert drawn[0] != drawn[1] != drawn[2]


def strip(words):
    return [word for word in words if word]


@pytest.mark.parametrize("named", [True, False])
def test_photos_without_a_name_are_different_photos_on_every_process(monkeypatch, named):
    """Each of two ranks gathers the other's values, recorded from a first run of both."""
    ids = image_id_tensor([{"image_id": 7} if named else {}, {}, {"image_id": 8}])
    gathered = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "PartialState", lambda rank=rank: FakeState(rank))
        monkeypatch.setattr(distributed, "pad_across_processes", lambda tensor, dim: tensor)
        monkeypatch.setattr(distributed, "gather", lambda tensor: torch.cat([tensor, tensor]))
        joined = distributed.gather_pairs(PairEmbeddings(*(torch.zeros(3, 2) for _ in range(6)), image_ids=ids))
        gathered.append(joined.image_ids.chunk(2)[rank])
    equal = gathered[0][:, None] == gathered[1][None]
    expected = torch.diag(torch.tensor([named, False, True]))
    assert torch.equal(equal, expected) and len(set(gathered[1].tolist())) == 3


@dataclass
class FakeState:
    process_index: int
    num_processes: int = 2


def test_joining_batches_pads_to_the_widest():
    def part(regions, words, fill):
        return PairEmbeddings(
            torch.full((2, 3), fill), torch.full((2, 3), fill),
            torch.full((2, regions, 3), fill), torch.full((2, words, 3), fill),
            torch.ones(2, regions, dtype=torch.bool), torch.ones(2, words, dtype=torch.bool),
        )  # fmt: skip

    joined = PairEmbeddings.cat([part(2, 5, 1.0), part(4, 3, 2.0)])
    assert joined.image_tokens.shape == (4, 4, 3) and joined.text_tokens.shape == (4, 5, 3)
    assert joined.image_mask.sum(1).tolist() == [2, 2, 4, 4] and joined.text_mask.sum(1).tolist() == [5, 5, 3, 3]
    assert joined.image_ids is None and joined.image_tokens[0, 2:].abs().sum() == 0
    leaves = joined.detached().differentiable()
    assert set(leaves) == {"image_embeds", "text_embeds", "image_tokens", "text_tokens"}
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves.values())
