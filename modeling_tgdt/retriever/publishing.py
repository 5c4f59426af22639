# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A retriever as a directory and on the Hub: model, processor, reference queries and gallery together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..index_tgdt import TGDTIndex
from ..modeling_tgdt import TGDTModel
from ..processing_tgdt import TGDTProcessor
from ..runtimes.onnx import export_onnx
from .adapters import save_model
from .card import new_card
from .directory import push_folder, save_gallery
from .fingerprint import model_identity
from .hubness import HubnessOptions


class PublishingMixin:
    """The methods of `TGDTRetriever` that save and push."""

    model: TGDTModel
    processor: TGDTProcessor
    index: TGDTIndex | None
    hubness: HubnessOptions | None
    _check_weights: Callable[[], None]

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "50GB",
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_options: Any,
    ) -> None:
        """Save model, processor and gallery (in `index/`) in the layout that `from_pretrained` and the Hub read.

        An adapter of PEFT is saved beside the model that it adapts.

        Args:
            directory: Made when missing. A gallery that is there already is replaced. In the directory of this gallery
                itself only model and processor are written beside it.
            max_shard_size: Of the weights' files.
            push_to_hub: Publish it, too.
            repo_id: Where to; the name of the directory by default.
            **push_options: Of [`TGDTRetriever.push_to_hub`].

        Raises:
            ValueError: For another directory inside the gallery's own.
            TypeError: For options of a push without one.
        """
        if push_options and not push_to_hub:
            raise TypeError(f"Expected push_to_hub=True for the option {next(iter(push_options))!r}, found False.")
        folder = Path(directory)
        self._check_weights()
        if self.index is not None:  # first: what it refuses leaves nothing behind
            save_gallery(self.index.path, folder)
        self.save_model(folder, max_shard_size=max_shard_size)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, max_shard_size=max_shard_size, **push_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: Sequence[str] | None = None,
    ) -> str:
        """Publish model, processor and gallery in one commit of one repository; one without a card gets one.

        Args:
            repo_id: `user/name`; made when missing.
            commit_message: Of the commit.
            commit_description: Its second part.
            private: Whether a new repository is private.
            token: Hub token; the one logged in by default.
            revision: Branch to push to, made when missing; the default one when omitted.
            create_pr: Open a pull request instead of committing.
            max_shard_size: Of the weights' files.
            tags: For the front matter of the card.

        Returns:
            Address of the commit.
        """
        items = None if self.index is None else f"{len(self.index):,} {self.index.kind}s"
        adapter = hasattr(self.model, "get_base_model") or getattr(self.model, "_hf_peft_config_loaded", False)
        commit: dict[str, Any] = {"commit_description": commit_description, "create_pr": create_pr}
        with tempfile.TemporaryDirectory() as folder:
            self.save_model(Path(folder), max_shard_size=max_shard_size)
            return push_folder(
                repo_id,
                Path(folder),
                None if self.index is None else self.index.path,
                private=private,
                token=token,
                message=commit_message or "Upload retriever",
                card=new_card(repo_id, items, adapter=adapter),
                tags=tags or (),
                revision=revision,
                **{name: value for name, value in commit.items() if value},
            )

    def export_onnx(self, directory: str | os.PathLike[str]) -> None:
        """Write the model as ONNX graphs, with processor, reference queries and gallery, for `backend="onnx"`.

        Args:
            directory: Made when missing.

        Raises:
            ImportError: Without the extra `export`.
            ValueError: For a model of precomputed regions.
        """
        folder = Path(directory)
        export_onnx(self.model, self.processor, model_identity(self.model), folder)
        if self.hubness is not None:
            self.hubness.save_pretrained(folder)
        if self.index is not None:
            save_gallery(self.index.path, folder)

    def save_model(self, directory: str | os.PathLike[str], **options: Any) -> None:
        """Save model, processor and reference queries, without the gallery.

        Args:
            directory: Made when missing.
            **options: Of `PreTrainedModel.save_pretrained`, such as `max_shard_size`.
        """
        save_model(self.model, Path(directory), **options)
        self.processor.save_pretrained(directory)
        if self.hubness is not None:
            self.hubness.save_pretrained(directory)
