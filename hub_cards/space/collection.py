# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the demo page searches: a retriever and the pictures behind its ids; and the pictures of a visitor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from modeling_tgdt.drawing.fonts import readable
from modeling_tgdt.image_loading_tgdt import known_formats, read_picture, rgb_picture
from modeling_tgdt.retrieval_tgdt import TGDTRetriever
from modeling_tgdt.retriever.picture_sources import looks_like_picture, picture_inside

MAX_UPLOADS = 200
MAX_BYTES = 16 * 1024 * 1024
_TILE = 256

Pictures = Mapping[str, Any] | Path | None


def decode_here(content: bytes) -> Image.Image:
    """Return an encoded picture as RGB, upright; see `read_picture` for what is refused."""
    return rgb_picture(read_picture(content))


@dataclass
class Collection:
    """Something to search.

    Attributes:
        retriever: Model, processor and gallery.
        pictures: Folder that was indexed, or pictures by id; None when only the embeddings are there.
        decode: Makes RGB of a visitor's encoded picture, or raises ValueError; in this process by default.
    """

    retriever: TGDTRetriever
    pictures: Pictures = None
    decode: Callable[[bytes], Image.Image] = decode_here

    def __len__(self) -> int:
        return 0 if self.retriever.index is None else len(self.retriever.index)

    def picture(self, name: str) -> Image.Image | None:
        """Return the picture of an id; None where there is none, or the id leads out of the folder."""
        if self.pictures is None:
            return None
        source: Any = self.pictures.get(name) if isinstance(self.pictures, Mapping) else None
        if isinstance(self.pictures, Path):
            source = picture_inside(self.pictures, name)
        try:
            return rgb_picture(read_picture(source))
        except ValueError:  # moved or damaged since it was indexed
            return None

    def tile(self, name: str) -> Image.Image:
        """Return what stands for an id among the results: its picture, small, or a card with the id."""
        picture = self.picture(name)
        if picture is not None:
            return ImageOps.contain(picture, (2 * _TILE, 2 * _TILE))
        card = Image.new("RGB", (_TILE, _TILE), "lightgrey")
        label, font = readable(name[:40], 14)
        ImageDraw.Draw(card).text((8, _TILE // 2), label, fill="black", font=font)
        return card


def add_uploads(
    mine: Collection | None,
    lent: TGDTRetriever,
    files: Iterable[tuple[str, bytes]],
    decode: Callable[[bytes], Image.Image] = decode_here,
) -> tuple[Collection, list[str]]:
    """Index pictures of a visitor in a gallery of their own, in memory and a temporary directory.

    Args:
        mine: What the visitor uploaded before.
        lent: Lends its model and its processor.
        files: (name, content) of each file. The name is only shown, never used as a path.
        decode: See [`Collection`].

    Returns:
        The visitor's collection, and one line for each file that was refused.
    """
    mine = mine or Collection(TGDTRetriever(lent.model, lent.processor), {})
    kept: dict[str, Any] = dict(mine.pictures) if isinstance(mine.pictures, Mapping) else {}
    accepted: dict[str, Image.Image] = {}
    refused: list[str] = []
    for name, content in files:
        try:
            name = _safe_name(name)
            accepted[name] = _read_upload(content, decode)
        except ValueError as error:
            refused.append(f"{_shown(name)}: {error}")
        if len(kept.keys() | accepted.keys()) >= MAX_UPLOADS:
            refused.append(f"{MAX_UPLOADS} pictures are the most that this page holds; what followed was left out.")
            break
    if accepted:
        mine.retriever.add_images(list(accepted.values()), ids=list(accepted), batch_size=8, progress=False)
    return Collection(mine.retriever, kept | accepted, decode), refused


def _safe_name(name: str) -> str:
    if not name or name != Path(name).name or "\\" in name or name.startswith(".") or not name.isprintable():
        raise ValueError("a name with folders or hidden parts is not accepted; rename the file.")
    if not looks_like_picture(name):
        raise ValueError(f"its name is not that of a picture; accepted are {', '.join(known_formats())}.")
    return name


def _read_upload(content: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than the {MAX_BYTES >> 20} MiB allowed; send a smaller copy.")
    picture = decode(content)
    return ImageOps.contain(picture, (1024, 1024)) if max(picture.size) > 1024 else picture


def _shown(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"`{printable[-60:].replace('`', '?')}`"


__all__ = ["MAX_BYTES", "MAX_UPLOADS", "Collection", "add_uploads", "decode_here"]
