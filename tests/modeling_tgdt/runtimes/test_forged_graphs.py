# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Forged ONNX graphs: run or refused, in a process that may die; nothing outside of the directory is read."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_tgdt.retriever.loading import load_backend
from tests.in_a_child import REFUSED, USED, in_a_child
from tests.test_fuzzing import FUZZ, HOSTILE, damage, places, replaced, watch
from tests.tiny_retrieval import tiny_model, tiny_processor

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the graphs are tried in a forked process")

FILES = st.sampled_from(["origin.json", "text/model.onnx", "image/model.onnx", "text/weights.bin"])
OUTPUTS = ("last_hidden_state", "pooler_output", "token_mask")


def graph(dim: int, image: bool, location: str = "weights.bin", names: tuple[str, ...] = OUTPUTS) -> bytes:
    """Return a graph with the inputs and outputs of an export; its weights lie in a file beside it.

    A word's embedding is its id times the weights, a picture's the mean of its pixels times the weights.
    """
    make, kinds = onnx.helper, onnx.TensorProto
    weights = kinds(name="weights", data_type=kinds.FLOAT, dims=[dim], data_location=kinds.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * dim))):
        weights.external_data.add(key=key, value=value)
    constants = [make.make_tensor(f"axis{axis}", kinds.INT64, [1], [axis]) for axis in (1, 2)]
    ids = [make.make_tensor_value_info(name, kinds.INT64, ["B", "W"]) for name in ("input_ids", "attention_mask")]
    mask = make.make_tensor_value_info("text_token_mask", kinds.BOOL, ["B", "W"])
    pixels = make.make_tensor_value_info("pixel_values", kinds.FLOAT, ["B", 3, "H", "W"])
    flat = make.make_tensor("flat", kinds.INT64, [3], [0, 1, -1])
    first = (
        [make.make_node("Reshape", ["pixel_values", "flat"], ["values"])]
        if image
        else [make.make_node("Cast", ["input_ids"], ["numbers"], to=kinds.FLOAT)]
        + [make.make_node("Unsqueeze", ["numbers", "axis2"], ["values"])]
    )
    nodes = [
        *first,
        make.make_node("ReduceMean", ["values", "axis2"], ["means"]),
        make.make_node("Mul", ["means", "weights"], [names[0]]),
        make.make_node("ReduceMean", [names[0], "axis1"], [names[1]], keepdims=0),
    ]
    if not image:
        nodes.append(make.make_node("Identity", ["text_token_mask"], [names[2]]))
    shapes = (["B", "T", dim], ["B", dim], ["B", "T"])
    results = [
        make.make_tensor_value_info(name, kinds.BOOL if number == 2 else kinds.FLOAT, shape)
        for number, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    inputs, results = ([pixels], results[:2]) if image else ([*ids, mask], results)
    body = make.make_graph(nodes, "branch", inputs, results, [weights, *constants, flat])
    model = make.make_model(body, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "exported"
    model = tiny_model()
    model.config.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    for branch in ("text", "image"):
        own = folder / "onnx" / branch
        own.mkdir(parents=True)
        (own / "model.onnx").write_bytes(graph(model.config.projection_dim, branch == "image"))
        (own / "weights.bin").write_bytes(np.ones(model.config.projection_dim, np.float32).tobytes())
    (folder / "onnx" / "origin.json").write_text(json.dumps({"model_id": "x", "model_revision": "weights.0.0"}))
    return folder


def embed(folder: Path) -> Any:
    with watch():
        model, processor = load_backend(folder, "onnx")
        inputs = processor(text=["a dog", "sea"], return_tensors="pt")
        return model.get_text_features(**inputs), model.get_image_features(torch.ones(2, 3, 32, 32))


def test_the_graphs_are_run(exported: Path) -> None:
    def right() -> None:
        texts, images = embed(exported)
        assert images.pooler_output.eq(1).all() and images.last_hidden_state.shape[:2] == (2, 1)
        assert texts.token_mask.tolist() == [[False, True, True, False], [False, True, False, False]]

    assert in_a_child(right) == USED


@settings(FUZZ, max_examples=max(1, FUZZ.max_examples // 4))
@given(data=st.data())
def test_forged_graphs_run_or_are_refused(exported: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        forged, outside = Path(folder, "exported"), Path(folder, "outside")
        shutil.copytree(exported, forged)
        outside.write_bytes(b"outside" * 99)
        path = forged / "onnx" / data.draw(FILES)
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            place = data.draw(st.sampled_from(places(content)))
            path.write_text(json.dumps(replaced(content, place, data.draw(HOSTILE))))
        else:
            path.write_bytes(data.draw(damage(path.read_bytes())))
        assert in_a_child(lambda: embed(forged)) in (USED, REFUSED), path
        assert outside.read_bytes() == b"outside" * 99
        assert sorted(found.name for found in Path(folder).iterdir()) == ["exported", "outside"]


@pytest.mark.parametrize("location", ["../../../outside", "/dev/zero", "x/../../../../outside", "gone"])
def test_weights_from_elsewhere_are_refused(exported: Path, tmp_path: Path, location: str) -> None:
    shutil.copytree(exported, tmp_path / "exported")
    (tmp_path / "outside").write_bytes(bytes(4096))
    (tmp_path / "exported/onnx/text/model.onnx").write_bytes(
        graph(tiny_model().config.projection_dim, False, location)
    )

    def refused() -> None:
        with pytest.raises(ValueError, match="^Expected a model that loads in .* External data path"):
            embed(tmp_path / "exported")

    assert in_a_child(refused) == USED


@pytest.mark.parametrize(
    ("dim", "names"), [(3, OUTPUTS), (None, ("x", *OUTPUTS[1:])), (None, (OUTPUTS[1], OUTPUTS[0], OUTPUTS[2]))]
)
def test_a_graph_of_another_shape_is_refused(
    exported: Path, tmp_path: Path, dim: int | None, names: tuple[str, ...]
) -> None:
    shutil.copytree(exported, tmp_path / "exported")
    forged = graph(dim or tiny_model().config.projection_dim, False, names=names)
    (tmp_path / "exported/onnx/text/model.onnx").write_bytes(forged)

    def refused() -> None:
        with pytest.raises(ValueError, match="Expected the graph of the text branch in .* Export the model again"):
            embed(tmp_path / "exported")

    assert in_a_child(refused) == USED
