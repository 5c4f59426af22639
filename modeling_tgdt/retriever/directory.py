# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A retriever as a directory or a repository of the Hub: model and processor files, and the gallery in `index/`.

A directory may name its model in `retriever.json` instead of holding a copy of it:

    {"model": "user/repo" or a path relative to the directory, "revision": commit or null, "pictures": path or null}

One that was downloaded names a repository, or a path inside its own.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, snapshot_download

from ..configuration_tgdt import LOADING_OPTIONS
from ..gallery.manifest import INDEX_FOLDER, MANIFEST, QDRANT_FOLDERS, Manifest
from ..gallery.plain_files import is_downloaded, is_on_a_network, read_inside, replacing, tree_inside
from ..index_tgdt import TGDTIndex
from .adapters import ADAPTER_CONFIG
from .card import add_tags

REFERENCE = "retriever.json"
_CARD = "README.md"
# Copies of the weights for other libraries, which repositories of older models hold.
_OTHER_WEIGHTS = ["*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot", "*.tflite"]
_BLOCK = 1 << 24
_OF_DOWNLOAD = frozenset(inspect.signature(snapshot_download).parameters)


def find_directory(name: str | os.PathLike[str], revision: str | None = None, **options: Any) -> Path:
    """Return a local directory, or download a repository of the Hub into the cache and return it from there.

    Args:
        name: Directory or Hub id. With `HF_HUB_OFFLINE=1` the cache alone is asked.
        revision: Branch, tag or commit of the repository.
        **options: Passed to `huggingface_hub.snapshot_download`, such as `token` and `cache_dir`.

    Raises:
        ValueError: When a path names no directory.
        OSError: When the Hub has no such repository, refuses it or cannot be reached, with its reason.
    """
    if os.path.isdir(name):
        return Path(name)
    if isinstance(name, os.PathLike) or os.path.isabs(name) or name.startswith((".", "~")):
        raise ValueError(f"Expected a directory with a model or gallery, found none at {os.fspath(name)!r}.")
    return _download(name, revision, **options)


def _download(name: str, revision: str | None, **options: Any) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, **({"ignore_patterns": _OTHER_WEIGHTS} | options)))
    except (OSError, ValueError) as error:
        raise OSError(f"{name!r} is not a directory here, and the Hub gave no such repository: {error}") from error


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part options of a retriever's `from_pretrained`.

    Args:
        options: Keyword arguments.

    Returns:
        Those of `huggingface_hub.snapshot_download`, and those of `TGDTModel.from_pretrained`; `token`, `cache_dir`,
        `local_files_only` and their like are both's.
    """
    download = {name: value for name, value in options.items() if name in _OF_DOWNLOAD}
    loading = {name: value for name, value in options.items() if name not in _OF_DOWNLOAD or name in LOADING_OPTIONS}
    return download, loading


def read_reference(folder: Path) -> dict[str, Any]:
    """Read `retriever.json`; empty when there is none.

    Raises:
        ValueError: When the file is damaged.
    """
    path = folder / REFERENCE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in ("model", "revision", "pictures"):
            value = content[key] if key == "model" else content.get(key)
            if not isinstance(value, str) and (value is not None or key == "model"):
                raise TypeError(f"its {key} is not a string")
            if is_on_a_network(value or ""):
                raise ValueError(f"its {key} is {value!r}, which is no repository and no directory of this machine")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}). Write it again with `tgdt index`.") from error
    return content


def write_reference(folder: Path, model: str, revision: str | None = None, pictures: str | None = None) -> None:
    """Name the model of a gallery in `retriever.json`, local paths relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    local = {"model": model, "pictures": pictures}
    paths = {
        key: os.path.relpath(path, folder) if path and os.path.exists(path) else path for key, path in local.items()
    }
    with replacing(folder / REFERENCE) as file:
        file.write(json.dumps({**paths, "revision": revision}, indent=1).encode())


def find_model(folder: Path, reference: dict[str, Any], **options: Any) -> Path:
    """Return the directory of the model: `folder` itself, or what its `retriever.json` names.

    Raises:
        ValueError: When there is neither, the named model is gone, or a download names a path out of itself.
    """
    if (folder / "config.json").exists() or (folder / ADAPTER_CONFIG).exists():
        return folder
    if not reference:
        raise ValueError(
            f"{str(folder)!r} holds neither a model (config.json) nor {REFERENCE}, which names one. Pass the "
            "directory of TGDTRetriever.save_pretrained or of `tgdt index`, or name the model."
        )
    named = reference["model"]
    near = folder / named
    if is_downloaded(folder):  # a path of its maker means something else here
        return near if _is_below(near, folder) else _download(named, reference.get("revision"), **options)
    if near.is_dir():
        return near
    try:
        return find_directory(named, reference.get("revision"), **options)
    except ValueError as error:
        raise ValueError(
            f"The gallery in {str(folder)!r} expects its model at {named!r}, and there is none: was one of the two "
            "moved? Name the model with --model (model= in Python); `tgdt index --copy-model` keeps a copy of it."
        ) from error


def _is_below(path: Path, folder: Path) -> bool:
    return path.is_dir() and path.resolve().is_relative_to(folder.resolve())


def open_index(folder: Path, engine_options: Mapping[str, Any] | None = None) -> TGDTIndex | None:
    """Open the gallery in `index/`, or the directory itself when it is a gallery; None when there is none.

    Args:
        folder: Where to look.
        engine_options: See `TGDTIndex.open`.
    """
    for path in (folder / INDEX_FOLDER, folder):
        if (path / MANIFEST).exists():
            return TGDTIndex.open(path, engine_options=engine_options)
    return None


def save_gallery(source: Path, folder: Path) -> None:
    """Copy a gallery into `folder/index`; one whose own directory is `folder` stays: `open_index` finds it there."""
    target = folder / INDEX_FOLDER
    if source.resolve() != folder.resolve() or (target / MANIFEST).exists():
        copy_gallery(source, target)


def copy_gallery(source: Path, target: Path) -> None:
    """Copy a gallery's directory; the target appears whole or not at all, an older one is replaced.

    Args:
        source: Directory of a gallery.
        target: Where to; nothing happens when it is the same directory.

    Raises:
        ValueError: When one lies inside the other.
    """
    origin, destination = source.resolve(), target.resolve()
    if origin == destination:
        return
    if origin in destination.parents or destination in origin.parents:
        raise ValueError(
            f"Expected a copy that lies apart from the gallery in {str(source)!r}, found {str(target)!r}; one would "
            "hold the other. Save into another directory."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in _gallery_files(source):  # the manifest first: what is appended meanwhile does not belong to it
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            with read_inside(source, name) as file, open(staging / name, "wb") as copy:
                shutil.copyfileobj(file, copy, _BLOCK)
        os.chmod(staging, 0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def push_folder(
    repo_id: str,
    folder: Path,
    gallery: Path | None,
    *,
    private: bool | None,
    token: bool | str | None = None,
    message: str,
    repo_type: str = "model",
    card: ModelCard | None = None,
    tags: Sequence[str] = (),
    revision: str | None = None,
    **commit: Any,
) -> str:
    """Publish a folder and a gallery as one commit; files that the repository has already are not sent again.

    Args:
        repo_id: Hub repository, made when missing.
        folder: Model and processor files, or what goes beside a gallery.
        gallery: Directory of the gallery, sent from where it lies.
        private: Whether a new repository is private.
        token: Hub token; the one logged in by default.
        message: Of the commit.
        repo_type: `"model"` or `"dataset"`.
        card: Card for a repository that has none.
        tags: Added to the card, old or new.
        revision: Branch to commit to, made when missing; the default one when omitted.
        **commit: Of `HfApi.create_commit`, such as `commit_description` and `create_pr`.

    Returns:
        Address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    where: dict[str, Any] = {"repo_type": repo_type}
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True, **where)
    if revision is not None:
        where["revision"] = revision
    there = api.list_repo_files(repo_id, **where)
    if card is not None and _CARD in there:
        card = ModelCard.load(api.hf_hub_download(repo_id, _CARD, **where)) if tags else None
    if card is not None:
        add_tags(card, tags).save(folder / _CARD)
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if gallery is not None:
        for name in _gallery_files(gallery):
            read_inside(gallery, name).close()  # refuses a link before anything is sent
            files[f"{INDEX_FOLDER}/{name}"] = gallery / name
    stale = [name for name in there if name.startswith(f"{INDEX_FOLDER}/") and name not in files]
    operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
    removals = [CommitOperationDelete(name) for name in stale] if gallery is not None else []
    return str(api.create_commit(repo_id, [*operations, *removals], commit_message=message, **where, **commit))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _gallery_files(gallery: Path) -> list[str]:
    """Return the files that a gallery's manifest names, below its directory; a model may lie beside them."""
    manifest = Manifest.read(gallery)
    names = manifest.paths()
    if manifest.settings["engine"] == "qdrant":
        names += [name for folder in QDRANT_FOLDERS.values() for name in tree_inside(gallery, folder)]
    return names


__all__ = [
    "INDEX_FOLDER",
    "copy_gallery",
    "find_directory",
    "find_model",
    "open_index",
    "push_folder",
    "read_reference",
    "save_gallery",
    "split_options",
    "write_reference",
]
