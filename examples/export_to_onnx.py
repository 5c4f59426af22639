"""Export the text and the image encoder to ONNX and rank with onnxruntime, beside PyTorch.

python examples/export_to_onnx.py pictures "a small red star above a blue circle" --model demo_output --output onnx

`tgdt export M --output onnx` writes the same directory. Each graph gives the global embedding, the token embeddings
and their mask; batch and caption length are dynamic. Needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

import argparse
from pathlib import Path

import numpy as np

from modeling_tgdt import TGDTRetriever


def scores(retriever: TGDTRetriever, pictures: Path, captions: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the names of N pictures and the scores (N, captions)."""
    retriever.create_index()
    retriever.add_images(pictures, progress=False)
    hits = retriever.search(captions, top_k=len(retriever.index))
    names = list(retriever.index)
    columns = [{hit.id: hit.score for hit in own} for own in hits]
    return names, np.array([[column[name] for column in columns] for name in names])


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Export, run both runtimes, and return each one's scores (pictures, captions)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("captions", nargs="+")
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--output", type=Path, default=Path("onnx"))
    args = parser.parse_args(arguments)

    trained = TGDTRetriever.from_pretrained(args.model)
    TGDTRetriever(trained.model, trained.processor).export_onnx(args.output)
    names, expected = scores(trained, args.pictures, args.captions)
    exported = TGDTRetriever.from_pretrained(args.output, backend="onnx")
    result = {"torch": expected, "onnx": scores(exported, args.pictures, args.captions)[1]}
    for caption, column in zip(args.captions, result["onnx"].T, strict=True):
        print(f"{caption!r}: {', '.join(names[row] for row in column.argsort()[::-1][:3])}")
    gap = np.abs(result["torch"] - result["onnx"]).max()
    print(f"largest difference of a score: {gap:.1e}; graphs in {args.output}")
    return result


if __name__ == "__main__":
    main()
