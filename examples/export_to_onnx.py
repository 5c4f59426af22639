"""Export the text and the image encoder to ONNX and rank with onnxruntime.

python examples/export_to_onnx.py pictures "a small red star above a blue circle" --model demo_output --output onnx

Each graph gives the global embedding, the token embeddings and their mask; batch and caption length are dynamic.
Needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.exporters import OnnxConfig, OnnxExporter

from modeling_tgdt import TGDTFeatures, TGDTModel, TGDTProcessor
from modeling_tgdt.retriever.picture_sources import list_pictures


class Encoder(nn.Module):
    """One branch of a TGDT model as a module of its own."""

    def __init__(self, model: TGDTModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config


class TextEncoder(Encoder):
    """Token ids (B, W) to embeddings."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, text_token_mask: Tensor) -> TGDTFeatures:
        """Embed captions; the mask says which positions are words."""
        return self.model.get_text_features(input_ids, attention_mask, text_token_mask=text_token_mask)


class ImageEncoder(Encoder):
    """Pixels (B, 3, H, W) to embeddings."""

    def forward(self, pixel_values: Tensor) -> TGDTFeatures:
        """Embed pictures."""
        return self.model.get_image_features(pixel_values)


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> TGDTFeatures:
    """Run a graph; this is all that a deployment needs, without torch and transformers."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    names = [output.name for output in session.get_outputs()]  # last_hidden_state, pooler_output, token_mask
    return TGDTFeatures(**{name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)})


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Export, run both runtimes, and return each one's scores (pictures, captions)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("captions", nargs="+")
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--output", type=Path, default=Path("onnx"))
    args = parser.parse_args(arguments)

    model, processor = TGDTModel.from_pretrained(args.model).eval(), TGDTProcessor.from_pretrained(args.model)
    names, files = zip(*list_pictures(args.pictures), strict=True)
    texts, pixels = dict(processor(text=args.captions, return_tensors="pt")), [Image.open(file) for file in files]
    inputs = {"text": texts, "image": dict(processor(images=pixels, return_tensors="pt"))}
    samples = {  # what is traced may have another size than what is run
        "text": dict(processor(text=["a dog runs", "a red car on a road"], return_tensors="pt")),
        "image": {"pixel_values": torch.rand(3, *inputs["image"]["pixel_values"].shape[1:])},
    }
    encoders = {"text": TextEncoder(model).eval(), "image": ImageEncoder(model).eval()}
    found: dict[str, dict[str, TGDTFeatures]] = {"torch": {}, "onnx": {}}
    for name, encoder in encoders.items():
        OnnxExporter().export(encoder, samples[name], config=OnnxConfig(dynamic=True)).save_pretrained(
            args.output / name
        )
        with torch.inference_mode():
            found["torch"][name] = encoder(**inputs[name])
        found["onnx"][name] = run_onnx(args.output / name / "model.onnx", inputs[name])
    result = {runtime: model.similarity(out["image"], out["text"]).numpy() for runtime, out in found.items()}
    for caption, column in zip(args.captions, result["onnx"].T, strict=True):
        print(f"{caption!r}: {', '.join(names[row] for row in column.argsort()[::-1][:3])}")
    gap = np.abs(result["torch"] - result["onnx"]).max()
    print(f"largest difference of a score: {gap:.1e}; graphs in {args.output}")
    return result


if __name__ == "__main__":
    main()
