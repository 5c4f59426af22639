# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The two branches of a model as ONNX graphs: written by `export_onnx`, run by `OnnxModel`.

config.json            configuration of the model
onnx/text/model.onnx   token ids to global and token embeddings; any batch size and length
onnx/image/model.onnx  pixels to global and region embeddings
onnx/origin.json       which weights the graphs were made of, as galleries record it
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..configuration_tgdt import TGDTConfig
from ..modeling_tgdt import TGDTFeatures, TGDTModel
from ..processing_tgdt import TGDTProcessor

FOLDER = "onnx"
_BRANCHES, _GRAPH, _ORIGIN = ("text", "image"), "model.onnx", "origin.json"
_RESULTS = {"last_hidden_state", "pooler_output", "token_mask"}  # the mask where tokens may be padding
_SAMPLE = ["a dog runs", "a red car on a road"]  # what is traced; a graph takes any number and length
_EXTRA = "needs the extra `export`: pip install 'tgdt[export]'."


class OnnxModel(nn.Module):
    """A model whose branches onnxruntime computes, on the CPU, in the place of a TGDTModel in a retriever.

    Args:
        folder: What `export_onnx` wrote.

    Raises:
        ImportError: Without onnxruntime.
        ValueError: When there are no graphs, or other ones.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"backend='onnx' {_EXTRA}") from error
        if not has_onnx(folder):
            raise ValueError(f"Expected ONNX graphs in {str(folder)!r}, found none. Make them with `tgdt export`.")
        self.folder, self.name_or_path = folder, str(folder)
        self.config = TGDTConfig.from_pretrained(folder)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.recorded_identity = _read_origin(folder / FOLDER / _ORIGIN)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        self._sessions: dict[str, Any] = {
            name: onnxruntime.InferenceSession(
                folder / FOLDER / name / _GRAPH, settings, providers=["CPUExecutionProvider"]
            )
            for name in _BRANCHES
        }
        for name, session in self._sessions.items():
            found = {output.name for output in session.get_outputs()}
            if not _RESULTS - {"token_mask"} <= found <= _RESULTS:
                raise self._refusal(name, f"the outputs {sorted(found)}")
        self.eval()

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor, **more: Tensor) -> TGDTFeatures:
        """Embed captions; see `TGDTModel.get_text_features`."""
        return self._run("text", {"input_ids": input_ids, "attention_mask": attention_mask, **more})

    def get_image_features(self, pixel_values: Tensor, **more: Tensor) -> TGDTFeatures:
        """Embed pictures; see `TGDTModel.get_image_features`. Boxes of regions are not among the results."""
        return self._run("image", {"pixel_values": pixel_values, **more})

    def get_input_embeddings(self) -> Any:
        """Tell how many tokens the text branch knows, as the embeddings of a TGDTModel do."""
        return SimpleNamespace(weight=torch.empty(self.config.get_text_config().vocab_size, 0))

    def to(self, device: Any) -> OnnxModel:  # type: ignore[override]
        """Refuse any device but the CPU."""
        if torch.device(device).type != "cpu":
            raise ValueError(f"The ONNX graphs run on the CPU, found {str(device)!r}. Load the model with PyTorch.")
        return self

    def save_pretrained(self, directory: str | Path, **_: Any) -> None:
        """Copy the graphs and the configuration."""
        if Path(directory).resolve() != self.folder.resolve():
            self.config.save_pretrained(directory)
            shutil.copytree(self.folder / FOLDER, Path(directory, FOLDER), dirs_exist_ok=True)

    def _run(self, name: str, inputs: dict[str, Tensor]) -> TGDTFeatures:
        session = self._sessions[name]
        known = {tensor.name for tensor in session.get_inputs()}
        outputs = [output.name for output in session.get_outputs()]
        try:
            values = session.run(None, {key: value.numpy() for key, value in inputs.items() if key in known})
        except Exception as error:  # onnxruntime's own types derive from nothing else
            raise self._refusal(name, f"{type(error).__name__}: {error}") from error
        results: dict[str, Any] = {key: torch.from_numpy(tensor) for key, tensor in zip(outputs, values, strict=True)}
        self._check(name, results, len(next(iter(inputs.values()))))
        return TGDTFeatures(**results)

    def _check(self, name: str, results: dict[str, Tensor], rows: int) -> None:
        tokens, pooled, mask = results["last_hidden_state"], results["pooler_output"], results.get("token_mask")
        sizes = rows, self.config.projection_dim
        fits = tokens.ndim == 3 and (*tokens.shape[::2],) == (*pooled.shape,) == sizes
        if not fits or {tokens.dtype, pooled.dtype} != {torch.float32}:
            raise self._refusal(name, f"embeddings {(*pooled.shape,)} and {(*tokens.shape,)} for {sizes}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != tokens.shape[:2]):
            raise self._refusal(name, f"a mask {(*mask.shape,)} of {mask.dtype} for tokens {(*tokens.shape,)}")

    def _refusal(self, name: str, found: str) -> ValueError:
        return ValueError(
            f"Expected the graph of the {name} branch in {str(self.folder)!r} as `tgdt export` writes it, "
            f"found {found}. Export the model again."
        )


def _read_origin(path: Path) -> tuple[str | None, str]:
    """Return name and revision of the weights that the graphs were made of."""
    content = json.loads(path.read_text(encoding="utf-8"))
    name, revision = (content.get(key) for key in ("model_id", "model_revision")) if content else (None, None)
    if not isinstance(revision, str) or not isinstance(name, str | None):
        raise ValueError(f"Expected model_id and model_revision as text in {str(path)!r}, found {content!r:.200}.")
    return name, revision


class _Branch(nn.Module):
    def __init__(self, model: TGDTModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    @staticmethod
    def _results(features: TGDTFeatures) -> TGDTFeatures:
        names = ("last_hidden_state", "pooler_output", "token_mask")
        return TGDTFeatures(**{name: getattr(features, name) for name in names})


class _Text(_Branch):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, text_token_mask: Tensor) -> TGDTFeatures:
        """Embed captions."""
        return self._results(self.model.get_text_features(input_ids, attention_mask, text_token_mask=text_token_mask))


class _Image(_Branch):
    def forward(self, pixel_values: Tensor) -> TGDTFeatures:
        """Embed pictures."""
        return self._results(self.model.get_image_features(pixel_values))


def has_onnx(folder: Path) -> bool:
    """Tell whether a directory holds the graphs of both branches."""
    return all((folder / FOLDER / name / _GRAPH).is_file() for name in _BRANCHES)


def export_onnx(model: TGDTModel, processor: TGDTProcessor, identity: tuple[str | None, str], folder: Path) -> None:
    """Write a model's branches as ONNX graphs, in float32, with its configuration and processor.

    Args:
        model: Of pixels; models of precomputed regions are not exported.
        processor: Its processor.
        identity: Name and revision of the weights, see `fingerprint.model_identity`.
        folder: Where to; made when missing.

    Raises:
        ImportError: Without the extra `export`.
        ValueError: For a model that takes other inputs than pixels.
    """
    try:
        import onnxscript  # noqa: F401
        from transformers.exporters import OnnxConfig, OnnxExporter
    except ImportError as error:
        raise ImportError(f"The export to ONNX {_EXTRA}") from error
    if model.config.vision_config is None:
        raise ValueError("Expected a model of pixels, found one of precomputed regions; ONNX takes pixels only.")
    pictures = [Image.new("RGB", (64, 48), colour) for colour in ("red", "white", "blue")]
    samples = {
        "text": dict(processor(text=_SAMPLE, return_tensors="pt")),
        "image": dict(processor(images=pictures, return_tensors="pt")),
    }
    if set(samples["image"]) != {"pixel_values"}:
        raise ValueError(f"Expected a model of pixels alone, found one of {sorted(samples['image'])}.")
    plain = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    branches: dict[str, Any] = {"text": _Text(plain), "image": _Image(plain)}
    for name, branch in branches.items():
        graph = OnnxExporter().export(branch.eval(), samples[name], config=OnnxConfig(dynamic=True))
        graph.save_pretrained(folder / FOLDER / name)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    origin = {"model_id": identity[0], "model_revision": identity[1]}
    (folder / FOLDER / _ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")


__all__ = ["FOLDER", "OnnxModel", "export_onnx", "has_onnx"]
