# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt export`: a model, with its gallery, for another runtime than PyTorch."""

import argparse
from pathlib import Path

FORMATS = ("onnx", "openvino")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("source", metavar="M|G", help="model, or a gallery that names one")
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="directory, read by `tgdt search OUT` and its like"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")


def run(args: argparse.Namespace) -> int:
    """Export, and copy the gallery beside it."""
    if args.format == "openvino":
        raise ValueError("OpenVINO is not supported. Export to ONNX, which its runtime reads: --format onnx.")
    from modeling_tgdt.retrieval_tgdt import TGDTRetriever

    out = Path(args.output)
    if (out / "config.json").exists():
        raise ValueError(f"{args.output!r} holds a model already. Name another directory with --output.")
    retriever = TGDTRetriever.from_pretrained(args.source, revision=args.revision)
    retriever.export_onnx(out)
    gallery = f", with {len(retriever.index)} items" if retriever.index is not None else ""
    print(f"exported to {out}{gallery}; TGDTRetriever.from_pretrained({str(out)!r}, backend='onnx') loads it")
    return 0
