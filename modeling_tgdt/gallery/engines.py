# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The engines by name: which backend opens a gallery, and what options it takes. A new engine is entered here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .backend import Backend
from .exact import ExactEngine
from .files import GalleryFiles
from .local import LocalBackend
from .manifest import MANIFEST


def complete_engine_options(engine: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of an engine, and that it has its library, before anything is written.

    Args:
        engine: One of `CHOICES["engine"]`.
        options: What the caller gave.

    Returns:
        The options to record.

    Raises:
        ValueError: For an option that the engine does not take, or a value out of range.
        ImportError: When the engine's library is missing.
    """
    if engine == "qdrant":  # libraries of engines are imported where they are used: Qdrant's takes seconds
        from .qdrant.connection import complete_options

        return complete_options(options)
    if engine == "faiss":
        from .faiss_engine import FaissEngine

        FaissEngine(**options)
    elif options:
        raise ValueError(f"Engine 'exact' takes no options, found {dict(options)!r}.")
    return dict(options)


def create_backend(root: Path, settings: dict[str, Any]) -> Backend:
    """Make an empty gallery, and the backend that its settings name.

    Args:
        root: Its directory.
        settings: What the manifest is to record, checked.

    Raises:
        FileExistsError: When the directory already holds a gallery.
        OSError: When the directory cannot be written, or a Qdrant server does not answer.
    """
    gallery = GalleryFiles.create(root, settings)
    try:
        return make_backend(gallery, settings["engine_options"])
    except BaseException:  # such as a server that does not answer: leave no gallery that was never whole
        (gallery.root / MANIFEST).unlink(missing_ok=True)
        raise


def make_backend(gallery: GalleryFiles, named: Mapping[str, Any]) -> Backend:
    """Make the backend that a gallery's settings name.

    Args:
        gallery: The gallery's directory.
        named: Options that the caller names in this call; they say how to reach a gallery in Qdrant.

    Raises:
        ValueError: When the manifest holds options that no engine wrote, or names a Qdrant that the caller does not.
    """
    settings = gallery.snapshot.manifest.settings
    if settings["engine"] == "qdrant":
        from .qdrant.backend import QdrantBackend

        return QdrantBackend(gallery, named)
    if settings["engine"] == "faiss":
        from .faiss_engine import FaissEngine

        try:
            return LocalBackend(gallery, FaissEngine(**settings["engine_options"]))
        except TypeError as error:
            raise ValueError(
                f"{MANIFEST} in {str(gallery.root)!r} is not a manifest that tgdt wrote: {error}."
            ) from error
    return LocalBackend(gallery, ExactEngine())
