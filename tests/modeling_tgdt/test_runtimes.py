# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""TGDTModel under reduced precision, torch.compile, torch.export, PEFT and accelerate device maps."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, get_peft_model
from torch import Tensor

from modeling_tgdt import TGDTModel
from tests.modeling_tgdt import tiny

KINDS = {
    "regions": (None, tiny.text_inputs() | tiny.region_inputs()),
    "pixels": (tiny.vision_config(), tiny.text_inputs() | tiny.pixel_inputs()),
}
OUTPUTS = ("logits_per_image", "image_embeds", "text_embeds", "image_token_embeds", "text_token_embeds")


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> tuple[TGDTModel, dict[str, Tensor]]:
    vision, inputs = KINDS[request.param]
    return tiny.tiny_model(copy.deepcopy(vision)), copy.deepcopy(inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_is_close(case, dtype: torch.dtype, tolerance: float) -> None:
    model, inputs = case
    with torch.no_grad():
        expected = model(**inputs, return_loss=True)
        found = model.to(dtype)(**inputs, return_loss=True)
    for name in OUTPUTS:
        assert found[name].dtype == dtype
        torch.testing.assert_close(found[name].float(), expected[name], atol=tolerance, rtol=tolerance)
    assert found.loss.dtype == torch.float32 and abs(found.loss - expected.loss) < 10 * tolerance


def test_half_precision_trains(case) -> None:
    model, inputs = case
    model.to(torch.bfloat16).train()(**inputs, return_loss=True).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_autocast_keeps_the_loss_in_float32(case) -> None:
    model, inputs = case
    expected = model(**inputs, return_loss=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs, return_loss=True)
    found.loss.backward()
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, expected.loss, atol=0.5, rtol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_compiles_without_a_graph_break(case) -> None:
    model, inputs = case
    expected = model(**inputs, return_loss=True)
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs, return_loss=True)
    for name in ("loss", *OUTPUTS):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)
    gradients = []
    for output in (expected, found):
        model.zero_grad()
        output.loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.slow
def test_exports(case) -> None:
    model, inputs = case
    exported = torch.export.export(model, (), inputs, strict=False).module()
    other = {name: value.flip(0) for name, value in inputs.items()}
    with torch.no_grad():
        expected, found = model(**other), exported(**other)
    for name in OUTPUTS:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_whole_forward_pass_exports_with_any_batch_size(case) -> None:
    model, inputs = case
    images = [name for name in inputs if name.startswith(("pixel", "region"))]
    inputs = {name: value[:5] if name in images else value for name, value in inputs.items()}  # 5 images, 8 captions
    auto = torch.export.Dim.AUTO
    sizes = {name: {0: auto} if name == "pixel_values" else {0: auto, 1: auto} for name in inputs}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=sizes, strict=False).module()
    for count in (1, 3, 8):
        other = {
            name: value.repeat(2, *[1] * (value.ndim - 1))[: count + (name in images)]
            for name, value in inputs.items()
        }
        with torch.no_grad():
            expected, found = model(**other), exported(**other)
        assert found.logits_per_image.shape == (count + 1, count)
        for name in OUTPUTS:
            torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_forward_pass_runs_as_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from transformers.exporters import OnnxConfig, OnnxExporter

    model, inputs = tiny.tiny_model(tiny.vision_config()), tiny.text_inputs(3) | tiny.pixel_inputs(3)
    OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True)).save_pretrained(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    other = tiny.text_inputs(5, seed=1) | tiny.pixel_inputs(5, seed=1)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {name: value.numpy() for name, value in other.items()}), strict=True))
    with torch.no_grad():
        expected = model(**other).logits_per_image
    torch.testing.assert_close(torch.from_numpy(found["logits_per_image"]), expected, atol=1e-4, rtol=0)


class Branch(torch.nn.Module):
    def __init__(self, model: TGDTModel, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        found = getattr(self.model, f"get_{self.name}_features")(**inputs)
        return found.pooler_output, found.last_hidden_state, found.token_mask


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "vision", "inputs"),
    [
        ("text", None, tiny.text_inputs()),
        ("image", None, tiny.region_inputs()),
        ("image", tiny.vision_config(), tiny.pixel_inputs()),
    ],
    ids=["text", "regions", "pixels"],
)
def test_each_branch_exports_with_any_batch_size_and_length(name: str, vision: Any, inputs: dict[str, Tensor]) -> None:
    branch = Branch(tiny.tiny_model(copy.deepcopy(vision)), name)
    auto, ragged = torch.export.Dim.AUTO, vision is None
    sizes = {key: {0: auto, 1: auto} if ragged else {0: auto} for key in inputs}
    exported = torch.export.export(branch, (inputs,), dynamic_shapes=(sizes,), strict=False).module()
    other = {key: torch.cat([value, value]) for key, value in inputs.items()}
    if ragged:
        other = {key: value[:, :-1] for key, value in other.items()}
    with torch.no_grad():
        torch.testing.assert_close(exported(other), branch(other), atol=1e-5, rtol=0)


def test_lora_trains_saves_and_loads(case, tmp_path: Path) -> None:
    model, inputs = case
    twin = copy.deepcopy(model)
    options = LoraConfig(
        r=2, target_modules=["query", "value", "q_proj", "v_proj"], modules_to_save=["text_projection"]
    )
    adapted = get_peft_model(model, options)
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(**inputs, return_loss=True).loss.backward()
        missing = [name for name, weight in adapted.named_parameters() if weight.requires_grad and weight.grad is None]
        assert not missing
        optimizer.step()
    adapted.save_pretrained(tmp_path)
    twin.load_adapter(str(tmp_path))
    with torch.no_grad():
        expected, found = adapted.eval()(**inputs), twin.eval()(**inputs)
        plain = tiny.tiny_model(copy.deepcopy(model.config.vision_config))(**inputs)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image, atol=1e-5, rtol=0)
    assert not torch.allclose(plain.logits_per_image, expected.logits_per_image, atol=1e-4)


@pytest.mark.parametrize("placement", ["device_map", "cpu_offload", "disk_offload", "split"])
def test_device_maps(case, placement: str, tmp_path: Path) -> None:
    model, inputs = case
    with torch.no_grad():
        expected = model(**inputs)
    if placement == "device_map":
        model.save_pretrained(tmp_path)
        model = TGDTModel.from_pretrained(tmp_path, device_map="auto")
    elif placement == "cpu_offload":
        model = cpu_offload(model, execution_device=torch.device("cpu"))
    elif placement == "disk_offload":
        model = disk_offload(model, tmp_path / "weights", execution_device=torch.device("cpu"))
    else:
        parts = {name: "cpu" for name, _ in model.named_children()}
        device_map = parts | {"text_model": "disk", "text_local_encoder": "disk", "region_embedding": "disk"}
        model = dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path / "weights"))
        assert any(parameter.is_meta for parameter in model.text_local_encoder.parameters())
    assert model.device == torch.device("cpu")  # where retrievers and pipelines put the inputs
    with torch.no_grad():
        found = model(**inputs)
    for name in OUTPUTS:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_no_gradient(case) -> None:
    model, inputs = case
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        model(**inputs, return_loss=True).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.gradient_checkpointing_enable()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
