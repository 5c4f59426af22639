# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""How a gallery reaches its Qdrant: options, the connection, and calls that are repeated when a server is busy."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..manifest import QDRANT_FOLDERS
from ..plain_files import tree_inside
from ..storage import GalleryBusyError
from .edge import EdgeClient, edge

try:
    import qdrant_client as _qdrant
except ImportError:
    _qdrant = None  # type: ignore[assignment]

_ATTEMPTS = 5
CLUSTER = ("shard_number", "replication_factor", "write_consistency_factor")
SEARCH = ("exact", "hnsw_ef")
_OPTIONS = {"url", "embedded", "collection", "timeout", *CLUSTER, *SEARCH}
_T = TypeVar("_T")


def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options, before anything is written, and name the kind of embedding where there is no url."""
    if _qdrant is None:
        raise ImportError("engine='qdrant' needs its client. Install it with `pip install 'tgdt[qdrant]'`.")
    if unknown := set(options) - _OPTIONS:
        raise ValueError(f"engine_options of 'qdrant' are {sorted(_OPTIONS)}, found {sorted(unknown)}.")
    collection = options.get("collection", "tgdt")
    if not re.fullmatch(r"[\w-][\w.-]*", str(collection), re.ASCII):
        raise ValueError(
            f"engine_options['collection'] must be letters, digits, '-', '_' and '.', found {collection!r}."
        )
    for key in {"timeout", "hnsw_ef", *CLUSTER} & set(options):
        if type(options[key]) not in (int, float) or not 0 < options[key] < 1 << 31:
            raise ValueError(f"engine_options[{key!r}] must be a number above 0, found {options[key]!r}.")
    if "url" in options:
        _check_url(options["url"])
        return dict(options)
    embedded = options.get("embedded", "local" if edge is None else "edge")
    if embedded not in QDRANT_FOLDERS:
        raise ValueError(f"engine_options['embedded'] must be one of {list(QDRANT_FOLDERS)}, found {embedded!r}.")
    return {**options, "embedded": embedded}


def allowed_options(root: Path, stored: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Join the options of a manifest with the caller's, who alone says where to connect and whether to unpickle."""
    url = named.get("url") or os.environ.get("QDRANT_URL")
    if "url" in stored and not url:
        raise ValueError(
            f"The gallery in {str(root)!r} lies in a Qdrant server; its directory names {stored['url']!r}, which is "
            "not taken on trust. Name the address yourself: engine_options={'url': ...}, --engine-option url=..., or "
            "the environment variable QDRANT_URL."
        )
    known = {**stored, **named}
    options = complete_options({**known, "url": url} if "url" in known else known)
    if options.get("embedded") == "local" and named.get("embedded") != "local":
        raise ValueError(
            f"The gallery in {str(root)!r} is an emulated Qdrant store, whose files can run code when they are read. "
            "If you wrote it, open it with engine_options={'embedded': 'local'} or --engine-option embedded=local."
        )
    return options


def _check_url(url: Any) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(
            f"engine_options['url'] must look like https://node:6333, without a name or password, found {url!r}."
        )


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect(options: Mapping[str, Any], root: Path) -> Any:
    if "url" in options:
        key, timeout = os.environ.get("QDRANT_API_KEY"), options.get("timeout", 60)
        if key and not (options["url"].startswith("https://") or _on_this_machine(options["url"])):
            raise ValueError(
                f"QDRANT_API_KEY would go to {options['url']!r} in clear. Give an address with https://, or unset the "
                "key where the server has none."
            )
        return _qdrant.QdrantClient(url=options["url"], api_key=key, timeout=timeout)
    tree_inside(root, QDRANT_FOLDERS[options["embedded"]])  # its own files are opened by Qdrant, which follows links
    if options["embedded"] == "edge":
        return EdgeClient(root / QDRANT_FOLDERS["edge"])
    try:
        return _qdrant.QdrantClient(path=str(root / QDRANT_FOLDERS["local"]))
    except RuntimeError as error:
        raise GalleryBusyError(f"{error} close() the index that holds it.") from error


def retry(call: Callable[[], _T], options: Mapping[str, Any]) -> _T:
    """Repeat a call that a server refused for a passing reason; every call may be repeated without harm."""
    for attempt in range(_ATTEMPTS if "url" in options else 1):
        if attempt:
            time.sleep(0.25 * 2 ** (attempt - 1))
        try:
            return call()
        except Exception as error:  # the client raises its own types per transport
            status = getattr(error, "status_code", None)
            if "url" not in options or isinstance(error, TypeError | ValueError):
                raise
            if status in range(400, 429):
                reason = " ".join(str(error).split())
                raise ValueError(f"Qdrant at {options['url']} refused a request: {reason}") from error
            last = error
    reason = " ".join(str(last).split())
    raise ConnectionError(
        f"Qdrant at {options['url']} did not answer {_ATTEMPTS} times in a row: {reason}. Check that it runs and call "
        "again; what was written stays, and items written twice are the same."
    ) from last
