# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Checks of what users hand to an index: expected, found, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..kernels.maxsim import SumOver
from ..kernels.ragged import RaggedQueries
from ..kernels.ranking import offsets_of
from ..similarity_tgdt import ScoreConfig, truncate
from .backend import Query
from .manifest import CHOICES

_LONGEST = 1e14  # norm of an embedding; Manifest.check allows a little more


def check_choice(value: str, choices: Sequence[str], name: str) -> str:
    """Return a value that is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, found {value!r}.")
    return value


def check_positive(value: int, name: str) -> int:
    """Return a number as int; refuse others than integers from 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, found {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value!r}.")
    return int(value)


def optional_settings(settings: Mapping[str, Any], hubness: bool, global_dim: int | None) -> dict[str, Any]:
    """Return the settings that are recorded only where they are used: earlier releases read galleries without them.

    Args:
        settings: The others.
        hubness: Whether items carry a hubness.
        global_dim: Length of the global embeddings that are stored; None for all of it.

    Raises:
        TypeError: For a length that is not an integer.
        ValueError: For a length that is out of range, or binary tokens in Qdrant.
    """
    if (settings["token_dtype"], settings["engine"]) == ("binary", "qdrant"):
        raise ValueError("Qdrant has no binary tokens here, found token_dtype='binary'. Take 'float16'.")
    optional: dict[str, Any] = {"hubness": True} if hubness else {}
    if global_dim is not None and check_positive(global_dim, "global_dim") != settings["dim"]:
        if global_dim > settings["dim"]:
            raise ValueError(f"global_dim must be at most dim={settings['dim']}, found {global_dim}.")
        optional["global_dim"] = int(global_dim)
    return optional


def to_float32(values: Any, name: str) -> np.ndarray:
    """Return a contiguous float32 array of a numpy array, torch tensor or nested list."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    try:
        return np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a numeric array or tensor, found {type(values).__name__} ({error})."
        ) from error


def check_ids(ids: Sequence[str]) -> list[str]:
    """Return the ids as a list; refuse other types than str, and duplicates."""
    if isinstance(ids, str):
        raise TypeError(f"ids must be a sequence of strings, found the single string {ids!r}. Pass [{ids!r}].")
    ids = list(ids)
    for value in ids:
        if not isinstance(value, str):
            raise TypeError(f"ids must be strings, found {value!r} ({type(value).__name__}). Use str(id).")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Id {value!r} is not valid Unicode ({error.reason}). Replace the lone surrogates."
            ) from error
    if len(set(ids)) < len(ids):
        repeated = [value for value, count in Counter(ids).items() if count > 1]
        raise ValueError(f"Duplicate ids in one call: {repeated[:5]!r}. Give each id once (a later call replaces it).")
    return ids


def check_globals(values: Any, settings: Mapping[str, Any], name: str) -> np.ndarray:
    """Return global embeddings as a gallery stores them: (N, D) float32, cut to its `global_dim` where it has one.

    Args:
        values: (N, D), or cut already.
        settings: Of the gallery.
        name: How errors call the argument.

    Raises:
        ValueError: For another shape, NaN, infinity or a zero vector.
    """
    array = cut_globals(values, settings, name)
    _check_finite(array, name)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(array, axis=1)
    if (norms == 0).any():
        raise ValueError(f"{name} row {int(norms.argmin())} is a zero vector, which cannot be ranked. Leave it out.")
    if (norms > _LONGEST).any():
        raise ValueError(
            f"{name} row {int(norms.argmax())} has the norm {norms.max():.3g}, too long for products in float32. "
            "Normalize the embeddings."
        )
    return array


def cut_globals(values: Any, settings: Mapping[str, Any], name: str) -> np.ndarray:
    """Return global embeddings as `check_globals` does; refuse other shapes only."""
    array, dim = to_float32(values, name), settings["dim"]
    kept = settings.get("global_dim", dim)
    if array.ndim != 2 or array.shape[1] not in (dim, kept):
        raise ValueError(
            f"{name} must have shape (N, {dim}), found {array.shape}; the index was created with dim={dim}. "
            "Embed with the model that the index was built with."
        )
    return array if array.shape[1] == kept else truncate(torch.from_numpy(array), kept).numpy()


def check_hubness(values: Any, size: int) -> np.ndarray:
    """Return (N,) float32 hubness; refuse other shapes, NaN, infinity and numbers out of all proportion."""
    array = to_float32(values, "hubness")
    if array.shape != (size,):
        raise ValueError(f"hubness must have shape ({size},), one number per item, found {array.shape}.")
    if not (np.abs(array) < _LONGEST).all():
        raise ValueError("hubness must be finite and small enough for products in float32. Leave those items out.")
    return array


def with_hubness(globals_: np.ndarray, hubness: Any, expected: bool) -> np.ndarray:
    """Append minus the hubness to global embeddings (N, D): one more dimension of the dot product is a bias."""
    if (hubness is not None) != expected:
        wanted = "one number per item" if expected else "none, this gallery was made without"
        raise ValueError(f"Expected hubness: {wanted}, found {'none' if hubness is None else 'some'}.")
    return globals_ if hubness is None else np.column_stack([globals_, -check_hubness(hubness, len(globals_))])


def check_item_globals(settings: Mapping[str, Any], values: Any, hubness: Any, size: int) -> np.ndarray:
    """Return the global rows that a gallery stores for `size` items: (N, D) embeddings, or (N, D + 1) with hubness."""
    globals_ = check_globals(values, settings, "global_embeds")
    if len(globals_) != size:
        raise ValueError(f"global_embeds has {len(globals_)} rows for {size} ids. Give one row per id.")
    return with_hubness(globals_, hubness, bool(settings.get("hubness")))


def check_candidates(candidate_ids: Sequence[Sequence[str]], queries: int) -> list[list[str]]:
    """Return the candidates of each query as lists; refuse another number of lists, and what `check_ids` refuses."""
    if isinstance(candidate_ids, str) or any(isinstance(names, str) for names in candidate_ids):
        raise TypeError("candidate_ids must be one list of ids per query, such as [['a', 'b']] for one query.")
    if len(candidate_ids) != queries:
        raise ValueError(f"candidate_ids has {len(candidate_ids)} lists for {queries} queries. Give one each.")
    return [check_ids(names) for names in candidate_ids]


def check_query(
    settings: Mapping[str, Any], globals_: Any, tokens: Any, mask: Any, kind: str | None, hubness: bool
) -> Query:
    """Return the queries of a gallery with these settings; see `TGDTIndex.search` for the arguments."""
    kind = kind or ("text" if settings["kind"] == "image" else "image")
    check_choice(kind, CHOICES["kind"], "query_kind")
    dim = settings["dim"]
    vectors = check_globals(globals_, settings, "query_global")
    if settings.get("hubness"):
        factor = np.full(len(vectors), hubness and kind != settings["kind"], np.float32)  # of the items' bias
        vectors = np.column_stack([vectors, factor])
    if tokens is None:
        raise ValueError(f"query_tokens are needed, (Q, T, {dim}); only search(mode='global') goes without.")
    rows, counts = ragged_tokens(tokens, mask, len(vectors), dim, "query_tokens")
    sum_over: SumOver = "stored" if (settings["kind"], kind) == ("text", "image") else "query"
    return Query(vectors, RaggedQueries(rows, offsets_of(counts)), sum_over, check_score(settings))


def check_score(
    settings: Mapping[str, Any], global_weight: float | None = None, local_weight: float | None = None
) -> ScoreConfig:
    """Return how a gallery mixes scores, with the weights that a call gives; refuse NaN and infinity."""
    given: dict[str, Any] = {"global_weight": global_weight, "local_weight": local_weight}
    for name, weight in given.items():
        given[name] = settings[name] if weight is None else float(weight)
        if not np.isfinite(given[name]):
            raise ValueError(f"{name} must be a finite number, found {weight!r}.")
    return ScoreConfig(**given, reduction=settings["reduction"], scale=settings["scale"])


def other_model_error(path: Path, built_with: str, found: str) -> ValueError:
    """Return the error for embeddings of another model than the one that built a gallery, with the ways out."""
    return ValueError(
        f"The gallery at {str(path)!r} was built with {built_with}, found {found}; embeddings of different "
        "weights cannot be compared. Load the model that built it (from_pretrained(..., revision=...)), or build "
        "the gallery again with this one (create_index and add_images, or `tgdt index`)."
    )


def ragged_tokens(tokens: Any, mask: Any, size: int, dim: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return token rows (sum of counts, D) and counts (N,) int64.

    Args:
        tokens: (N, T, D), or a sequence of N arrays (Ti, D).
        mask: None or (N, T) bool, true for real tokens; only with a (N, T, D) array.
        size: N.
        dim: D.
        name: How errors call the argument.

    Returns:
        Flat rows of the real tokens and the number of rows per item.
    """
    if isinstance(tokens, list | tuple):
        if mask is not None:
            raise ValueError(f"{name} is a list of ragged arrays. Leave its mask out, or pass one (N, T, D) array.")
        parts = [_token_matrix(part, dim, f"{name}[{i}]") for i, part in enumerate(tokens)]
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        rows = np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)
    else:
        array = to_float32(tokens, name)
        if array.ndim != 3 or array.shape[2] != dim:
            raise ValueError(f"{name} must have shape (N, T, {dim}) or be a list of (Ti, {dim}), found {array.shape}.")
        keep = _mask(mask, array.shape[:2], name)
        counts, rows = keep.sum(axis=1, dtype=np.int64), array[keep]
    if len(counts) != size:
        raise ValueError(f"{name} holds {len(counts)} items, expected {size}: one per id or query.")
    _check_finite(rows, name)
    return rows, counts


def _mask(mask: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    if mask is None:
        return np.ones(shape, dtype=bool)
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if array.shape != shape:
        raise ValueError(f"The mask of {name} must have shape {shape}, found {array.shape}.")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"The mask of {name} must be boolean (true = real token), found values other than 0 and 1.")
    return array.astype(bool)


def _token_matrix(values: Any, dim: int, name: str) -> np.ndarray:
    array = to_float32(values, name)
    if array.size == 0:
        return np.zeros((0, dim), np.float32)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{name} must have shape (T, {dim}), found {array.shape}.")
    return array


def _check_finite(array: np.ndarray, name: str) -> None:
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        quick = np.isfinite(np.dot(flat, flat))  # one pass; it can overflow, then every value is looked at
    if quick:
        return
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise ValueError(f"{name} has NaN or infinity in row {row}. Check the model's precision and the input.")
