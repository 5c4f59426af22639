# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt convert`: make a model directory out of a checkpoint of the authors' code."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("checkpoint", metavar="REF", help="*.pth.tar or *.safetensors of the authors' code")
    parser.add_argument("output", metavar="OUT", help="directory to write the model to")
    parser.add_argument(
        "--text-model",
        metavar="ID|DIR|config.json",
        help="text encoder that the checkpoint was trained with, such as google-bert/bert-base-uncased; needed when "
        "its heads are not 64 wide. A tokenizer found there is saved too",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, save, and say where every tensor went."""
    from transformers import AutoConfig

    from modeling_tgdt.convert_tgdt_original_to_hf import convert_checkpoint

    text_config = (
        None if args.text_model is None else AutoConfig.from_pretrained(args.text_model, trust_remote_code=False)
    )
    model = convert_checkpoint(args.checkpoint, args.output, text_config)
    report = json.loads(Path(args.output, "conversion_report.json").read_text())
    print(f"{len(report['used'])} tensors used, {len(report['unused'])} not needed:")
    for name, reason in report["unused"].items():
        print(f"  {name}: {reason}")
    saved = _save_processor(args.text_model, args.output)
    print(f"{model.num_parameters():,} parameters in {args.output}, {'with' if saved else 'without'} a processor")
    return 0


def _save_processor(text_model: str | None, output: str) -> bool:
    """Save the processor when `text_model` names a tokenizer."""
    if text_model is None or text_model.endswith(".json"):
        return False
    from transformers import AutoTokenizer

    from modeling_tgdt import TGDTImageProcessor, TGDTProcessor

    try:
        tokenizer = AutoTokenizer.from_pretrained(text_model, trust_remote_code=False)
    except (OSError, ValueError):
        return False
    TGDTProcessor(TGDTImageProcessor(), tokenizer).save_pretrained(output)
    return True
