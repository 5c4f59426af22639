# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Run the Python blocks of a page as a reader would: in order, in one namespace, in a folder with what they name.

A block marked ```python no-run REASON is left out; without a reason that is an error.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertConfig, BertModel, Dinov2Config, Dinov2Model, ViTImageProcessor

from modeling_tgdt import TGDTImageProcessor, TGDTModel, TGDTProcessor
from tests.modeling_tgdt.dual_encoders import save_dual_encoder
from trainer.scenes import make_scenes
from trainer.tokenizers import build_word_tokenizer

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```python *([^\n]*)\n(.*?)^```", flags=re.S | re.M)


@dataclass
class Block:
    """One block: its code, its first line in the page, and why it does not run (empty: it runs)."""

    code: str
    line: int
    skipped: str = ""


def blocks(page: Path) -> list[Block]:
    """Find the Python blocks of a page."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _BLOCK.finditer(text):
        line = text[: match.start(2)].count("\n") + 1
        mark, _, reason = match[1].partition(" ")
        if mark not in ("", "no-run") or (mark and not reason.strip()):
            raise ValueError(
                f"{page.name}:{line - 1}: expected ```python or ```python no-run REASON, found {match[1]!r}"
            )
        found.append(Block(match[2], line, reason.strip()))
    return found


def run_page(page: Path, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the blocks in order in the current folder and return their namespace; line numbers are the page's."""
    namespace = {"__name__": "page"} if namespace is None else namespace
    for block in blocks(page):
        if not block.skipped:
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
    return namespace


def reader_folder(root: Path) -> Path:
    """Make what the pages name: captioned `photos`, backbones under their Hub names, and a model, `my-model`."""
    scenes = make_scenes(12, 0, image_size=56)
    (root / "photos").mkdir()
    lines = ["file_name,caption"]
    for number, row in enumerate(scenes):
        row["image"].save(root / "photos" / f"{number}.jpg")
        lines += [f'{number}.jpg,"{caption}"' for caption in row["captions"]]
    (root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    lines.append("broken.jpg,a broken picture")
    (root / "photos" / "captions.csv").write_text("\n".join(lines))
    tokenizer = build_word_tokenizer([caption for row in scenes["captions"] for caption in row])
    text = root / "sentence-transformers" / "all-MiniLM-L6-v2"
    tokenizer.save_pretrained(text)
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**small, intermediate_size=64, vocab_size=len(tokenizer))).save_pretrained(text)
    vision = root / "facebook" / "dinov2-small"
    Dinov2Model(Dinov2Config(**small, image_size=56, patch_size=14)).save_pretrained(vision)
    ViTImageProcessor(size={"height": 56, "width": 56}).save_pretrained(vision)
    save_dual_encoder("clip", root / "openai" / "clip-vit-base-patch32")
    sizes = {"projection_dim": 32, "intermediate_size": 64}
    TGDTModel.from_vision_text_pretrained(str(vision), str(text), **sizes).save_pretrained(root / "my-model")
    processor = TGDTProcessor(TGDTImageProcessor.from_backbone(vision), AutoTokenizer.from_pretrained(text))
    processor.save_pretrained(root / "my-model")
    return root
