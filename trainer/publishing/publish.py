# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Publish a directory on the Hub: model, processor, custom code, card and gallery; the gallery maybe on its own."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from hub_cards.cards import MARKER, gallery_card, write_model_card
from hub_cards.privacy import mask_tokens
from modeling_tgdt.gallery.plain_files import read_inside
from modeling_tgdt.index_tgdt import TGDTIndex
from modeling_tgdt.retriever.directory import push_folder, write_reference

_RECORDS = ("run.json", "metrics.json", "curves.png", "conversion_report.json", "LICENSE", "README.md")


@dataclass(frozen=True)
class Published:
    """Where everything went.

    Attributes:
        model: Address of the model's commit.
        gallery: Address of the gallery's commit, when it has a repository of its own.
        items: Items of the gallery; 0 without one.
    """

    model: str
    gallery: str | None
    items: int


def publish(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    gallery_repo: str | None = None,
    private: bool | None = None,
    message: str = "Upload with tgdt push",
) -> Published:
    """Push a directory; files that the Hub has already are not sent again.

    Everything is loaded first, so what cannot be loaded, or a gallery of other weights, is refused before anything is
    sent. Each repository gets one commit: an interrupted push leaves the last one as it was.

    Args:
        directory: What `tgdt train`, `tgdt index` or `save_pretrained` made.
        repo_id: Model repository, made when missing.
        gallery_repo: Dataset repository for the gallery; by default it goes with the model, into `index/`.
        private: Whether new repositories are private.
        message: Of the commits.

    Raises:
        ValueError: When the directory holds no model, or there is no gallery for `gallery_repo`.
        OSError: When the Hub refuses, with the reason.
    """
    from modeling_tgdt.retrieval_tgdt import TGDTRetriever

    folder = Path(directory)
    check_token()
    retriever = TGDTRetriever.from_pretrained(folder)
    index = retriever.index
    if gallery_repo is not None and index is None:
        raise ValueError(
            f"Expected a gallery for {gallery_repo!r} in {str(folder)!r}, found none. Build one with `tgdt index`."
        )
    together = index is not None and gallery_repo is None
    repo_id = _full_name(repo_id, "model", private)
    with tempfile.TemporaryDirectory() as name:
        staging = Path(name)
        retriever.save_model(staging)
        _copy_records(folder, staging)
        write_model_card(staging, repo_id, gallery=together)
        path = index.path if index is not None and together else None
        model = push_folder(repo_id, staging, path, private=private, message=message)
    gallery = None
    if gallery_repo is not None and index is not None:
        gallery = publish_gallery(index, gallery_repo, repo_id, private=private, message=message)
    return Published(model, gallery, 0 if index is None else len(index))


def publish_gallery(
    index: TGDTIndex,
    repo_id: str,
    model_id: str,
    *,
    private: bool | None = None,
    message: str = "Upload with tgdt push",
) -> str:
    """Push a gallery as a dataset repository that names its model, in one commit.

    Args:
        index: The gallery.
        repo_id: Dataset repository, made when missing.
        model_id: Model on the Hub that built it.
        private: Whether a new repository is private.
        message: Of the commit.

    Returns:
        Address of the commit.
    """
    repo_id = _full_name(repo_id, "dataset", private)
    with tempfile.TemporaryDirectory() as name:
        staging = Path(name)
        write_reference(staging, model_id)
        gallery_card(index, repo_id, model_id).save(staging / "README.md")
        return push_folder(repo_id, staging, index.path, private=private, message=message, repo_type="dataset")


def check_token() -> None:
    """Ask the Hub who is logged in, before anything is prepared.

    Raises:
        ValueError: When there is no token, or the Hub does not accept it.
    """
    remedy = "Make one with write access in the settings of your account, then `hf auth login`, or set HF_TOKEN."
    if not get_token():
        raise ValueError(f"Pushing needs a Hub token, found none. {remedy}")
    try:
        HfApi().whoami()
    except OSError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise ValueError(f"The Hub does not accept the token (status {status}). {remedy}") from error
        raise


def network_errors() -> type[Exception]:
    """Return the base class of the errors of the HTTP library behind huggingface_hub, httpx or its successor."""
    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _full_name(repo_id: str, repo_type: str, private: bool | None) -> str:
    """Make the repository when it is missing, and return its name with the owner, as a card must say it."""
    made = HfApi().create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    return str(made.repo_id)


def _copy_records(source: Path, target: Path) -> None:
    """Take along what a card is written from, and a card that somebody edited."""
    for name in _RECORDS:
        if not (source / name).exists():
            continue
        with read_inside(source, name) as file:  # no link to a file from elsewhere
            data = file.read()
        if name.endswith(".json"):
            (target / name).write_text(mask_tokens(data.decode("utf-8")), encoding="utf-8")
        elif name != "README.md" or MARKER not in data.decode("utf-8"):
            (target / name).write_bytes(data)


__all__ = ["Published", "check_token", "network_errors", "publish", "publish_gallery"]
