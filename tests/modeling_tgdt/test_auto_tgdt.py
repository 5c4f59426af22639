# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Auto classes find TGDT after one import, and as custom code in a process that cannot import the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

import modeling_tgdt
from modeling_tgdt import TGDTConfig, TGDTModel, TGDTProcessor
from tests.loopback_hub import loopback_hub
from tests.modeling_tgdt import tiny
from tests.modeling_tgdt.test_processing_tgdt import make_processor

# Runs where the package cannot be imported: loads everything as custom code and records what it computes.
LOADER = """
import json, sys
import importlib.util
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

source, inputs, outputs = sys.argv[1:]
assert importlib.util.find_spec("modeling_tgdt") is None and importlib.util.find_spec("trainer") is None
config = AutoConfig.from_pretrained(source, trust_remote_code=True)
model = AutoModel.from_pretrained(source, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
names = [type(part).__name__ for part in (config, model, processor, image_processor)]
backends = []
for options in ({"use_fast": False}, {"use_fast": True}, {"backend": "pil"}):
    whole = AutoProcessor.from_pretrained(source, trust_remote_code=True, **options).image_processor
    alone = AutoImageProcessor.from_pretrained(source, trust_remote_code=True, **options)
    backends += [type(whole).__name__, type(alone).__name__]
batch = processor(text=["a new ball", "older"], return_tensors="pt")
with torch.no_grad():
    output = model(**load_file(inputs), return_loss=True)
    model(**batch, region_features=torch.zeros(2, 3, config.region_feature_size))
save_file({"logits": output.logits_per_image.contiguous(), "loss": output.loss[None]}, outputs)
print(json.dumps({"names": names, "backends": backends, "size": dict(image_processor.size)}))
"""
KINDS = {"regions": None, "pixels": tiny.vision_config()}


def save_all(folder: Path, kind: str) -> TGDTModel:
    model = tiny.tiny_model(KINDS[kind])
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return model


def model_inputs(kind: str) -> dict[str, torch.Tensor]:
    return tiny.text_inputs() | (tiny.region_inputs() if kind == "regions" else tiny.pixel_inputs())


@pytest.mark.parametrize("kind", KINDS)
def test_auto_classes_find_the_package(kind: str, tmp_path: Path) -> None:
    model = save_all(tmp_path, kind)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TGDTConfig
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is TGDTModel
    assert type(AutoProcessor.from_pretrained(tmp_path)) is TGDTProcessor
    assert type(AutoImageProcessor.from_pretrained(tmp_path)).__name__.startswith("TGDTImageProcessor")
    with torch.no_grad():
        expected, found = model(**model_inputs(kind)), loaded(**model_inputs(kind))
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image)


def test_only_what_the_model_needs_is_copied(tmp_path: Path) -> None:
    save_all(tmp_path, "regions")
    copied = {path.name for path in tmp_path.glob("*.py")}
    package = {path.name for path in Path(modeling_tgdt.__file__).parent.glob("*.py")}
    needed = {
        "backbones_tgdt.py",
        "configuration_tgdt.py",
        "dual_encoders_tgdt.py",
        "heads_tgdt.py",
        "image_loading_tgdt.py",
        "image_processing_pil_tgdt.py",
        "image_processing_tgdt.py",
        "loss_tgdt.py",
        "modeling_tgdt.py",
        "objectives_tgdt.py",
        "processing_tgdt.py",
        "similarity_tgdt.py",
        "tokenizing_tgdt.py",
        "triton_similarity_tgdt.py",
    }
    assert copied == needed <= package
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    model = "modeling_tgdt.TGDTModel"
    models = {"AutoModel": model, "AutoModelForZeroShotImageClassification": model}
    assert auto_map == {"AutoConfig": "configuration_tgdt.TGDTConfig", **models}


def load_elsewhere(source: str, kind: str, folder: Path, environment: dict[str, str]) -> None:
    """Load `source` in a bare process and compare with the model of this one."""
    folder.mkdir()
    inputs, outputs = folder / "inputs.safetensors", folder / "outputs.safetensors"
    save_file(model_inputs(kind), inputs)
    script = folder / "loader.py"
    script.write_text(LOADER)
    # Neither the checkout nor an editable install is visible from here:
    # the latter comes from .pth files, which -S leaves out.
    site = [path for path in sys.path if path.endswith("site-packages")]
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    result = subprocess.run(
        [sys.executable, "-S", str(script), source, str(inputs), str(outputs)],
        cwd=folder,
        env=bare | {"HF_HOME": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(site)} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["names"][:3] == ["TGDTConfig", "TGDTModel", "TGDTProcessor"]
    assert report["names"][3].startswith("TGDTImageProcessor") and report["size"] == {"height": 16, "width": 16}
    pil, torchvision = ["TGDTImageProcessorPil"] * 2, ["TGDTImageProcessor"] * 2
    assert report["backends"] == [*pil, *torchvision, *pil]
    with torch.no_grad():
        expected = tiny.tiny_model(KINDS[kind])(**model_inputs(kind), return_loss=True)
    found = load_file(outputs)
    torch.testing.assert_close(found["logits"], expected.logits_per_image)
    torch.testing.assert_close(found["loss"][0], expected.loss)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_custom_code_from_a_directory(kind: str, tmp_path: Path) -> None:
    save_all(tmp_path / "model", kind)
    load_elsewhere(str(tmp_path / "model"), kind, tmp_path / "elsewhere", {"HF_HUB_OFFLINE": "1"})


PUSHER = """
import sys
from huggingface_hub import ModelCard
from tests.modeling_tgdt import test_auto_tgdt as here, tiny
repo, kind = sys.argv[1:]
tiny.tiny_model(here.KINDS[kind]).push_to_hub(repo)
here.make_processor().push_to_hub(repo)
print(ModelCard.load(repo).data.tags)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_custom_code_from_a_hub(kind: str, tmp_path: Path) -> None:
    with loopback_hub() as environment:
        pushed = subprocess.run(
            [sys.executable, "-c", PUSHER, "tester/tgdt-tiny", kind],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"HF_HOME": str(tmp_path / "cache")} | environment,
            capture_output=True,
            text=True,
        )
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.splitlines()[-1] == "['tgdt', 'image-text-retrieval']"  # of the card
        load_elsewhere("tester/tgdt-tiny", kind, tmp_path / "elsewhere", environment)
