# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""How token embeddings become bytes: dtypes of the token store, per-token scales, token pooling."""

from __future__ import annotations

import numpy as np
import torch

STORAGE_DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,  # numpy has no bfloat16: the raw upper halves of float32
    "int16": np.int16,
    "int8": np.int8,
}
SCALED_DTYPES = ("int16", "int8")
BINARY = "binary"  # of a gallery: int8 rows, and a bit per number beside them
TOKEN_DTYPES = (*STORAGE_DTYPES, BINARY)


def check_token_dtype(token_dtype: str) -> str:
    """Return `token_dtype`, or raise a ValueError listing the choices."""
    if token_dtype not in TOKEN_DTYPES:
        raise ValueError(f"token_dtype must be one of {sorted(TOKEN_DTYPES)}, found {token_dtype!r}.")
    return token_dtype


def bytes_per_token(dim: int, token_dtype: str) -> int:
    """Bytes of one stored token of length `dim`, with its scale where the dtype has one."""
    if token_dtype == BINARY:
        return bytes_per_token(dim, "int8") + bits_width(dim)
    return dim * np.dtype(STORAGE_DTYPES[token_dtype]).itemsize + (8 if token_dtype in SCALED_DTYPES else 0)


def bits_width(dim: int) -> int:
    """Bytes of one token of length `dim` as a bit per number and a factor, see `binary.encode_bits`."""
    return -(-dim // 8) + 2


def to_bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16 (nearest even) and return its bits as uint16, same shape."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(torch.bfloat16)
    return tensor.view(torch.int16).numpy().view(np.uint16)


def encode_tokens(tokens: np.ndarray, token_dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Encode float32 token rows for the store.

    Args:
        tokens: (T, D) float32.
        token_dtype: A key of `STORAGE_DTYPES`. `int8` and `int16` keep one scale per token. `int16` costs as much as
            `float16`, is as precise for unit vectors, and computes twice as fast where there is no bfloat16 unit.

    Returns:
        The codes (T, D) and, for scaled dtypes, (T, 2) float32: the scale and the sum of the codes.

    Raises:
        ValueError: When a value does not fit into float16.

    Example:
        >>> codes, scales = encode_tokens(np.array([[0.6, -0.8]], dtype=np.float32), "int8")
        >>> codes.tolist()
        [[95, -127]]
    """
    if token_dtype == "bfloat16":
        return to_bfloat16_bits(tokens), None
    if token_dtype == "int8":
        return quantize_int8(tokens)
    if token_dtype == "int16":  # |codes| <= 2**15 in norm, so an int32 dot product of two rows cannot overflow
        return _scale_codes(tokens, np.linalg.norm(tokens, axis=1) / 32767, np.int16, 32767)
    if token_dtype == "float16" and tokens.size and float(np.abs(tokens).max()) > 65504:
        raise ValueError(
            "Expected token values of at most 65504, the largest in float16, found more. "
            "Normalize the tokens or use 'float32'."
        )
    return np.ascontiguousarray(tokens, dtype=STORAGE_DTYPES[token_dtype]), None


def quantize_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize (N, D) rows to int8 codes and (N, 2) float32: the scale and the sum of the codes of each row."""
    return _scale_codes(values, np.abs(values).max(axis=1, initial=0.0) / 127, np.int8, 127)


def decode_tokens(codes: np.ndarray, scales: np.ndarray | None, token_dtype: str) -> np.ndarray:
    """Invert `encode_tokens`: (T, D) codes to (T, D) float32."""
    if token_dtype == "bfloat16":
        return (codes.astype(np.uint32) << 16).view(np.float32)
    values = codes.astype(np.float32)
    return values if scales is None else values * scales[:, :1]


def pool_tokens(tokens: np.ndarray, factor: int) -> np.ndarray:
    """Merge the most similar tokens of one item until `ceil(T / factor)` are left.

    Agglomerative mean pooling by cosine, as in "Reducing the Footprint of Multi-Vector Retrieval with Minimal
    Performance Impact via Token Pooling" (Clavie et al. 2024). A merged token keeps the mean length of its members.

    Args:
        tokens: (T, D) float32.
        factor: 1 keeps every token.

    Returns:
        (ceil(T / factor), D) float32.

    Example:
        >>> pool_tokens(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32), 2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    target = -(-len(tokens) // factor)
    if len(tokens) <= target:
        return tokens
    norms = np.linalg.norm(tokens, axis=1)
    units = tokens / np.maximum(norms, 1e-12)[:, None]
    sums, sizes = units.astype(np.float64), np.ones(len(tokens))
    similarity = sums @ sums.T
    np.fill_diagonal(similarity, -np.inf)
    for _ in range(len(tokens) - target):
        keep, drop = sorted(divmod(int(similarity.argmax()), len(tokens)))
        sums[keep] += sums[drop]
        sizes[keep], norms[keep] = sizes[keep] + sizes[drop], norms[keep] + norms[drop]
        sizes[drop] = 0
        alive = sizes > 0
        center = sums / np.maximum(np.linalg.norm(sums, axis=1), 1e-12)[:, None]
        row = np.where(alive, center @ center[keep], -np.inf)
        row[keep] = -np.inf
        similarity[keep], similarity[:, keep] = row, row
        similarity[drop], similarity[:, drop] = -np.inf, -np.inf
    alive = sizes > 0
    center = sums[alive] / np.maximum(np.linalg.norm(sums[alive], axis=1), 1e-12)[:, None]
    return (center * (norms[alive] / sizes[alive])[:, None]).astype(np.float32)


def pool_items(tokens: np.ndarray, counts: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Pool the tokens of many items, each by itself; see `pool_tokens`.

    Args:
        tokens: Rows of N items one after the other, (sum of counts, D).
        counts: Rows of each item (N,); N is at least 1.
        factor: 1 keeps every token.

    Returns:
        The rows that are left, and how many of each item.
    """
    if factor == 1:
        return tokens, counts
    pooled = [pool_tokens(rows, factor) for rows in np.split(tokens, np.cumsum(counts)[:-1])]
    return np.concatenate(pooled), np.array([len(rows) for rows in pooled], dtype=np.int64)


def _scale_codes(
    tokens: np.ndarray, scale: np.ndarray, dtype: type[np.signedinteger], limit: int
) -> tuple[np.ndarray, np.ndarray]:
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    codes = np.clip(np.rint(tokens / scale[:, None]), -limit, limit).astype(dtype)
    return codes, np.stack([scale, codes.sum(axis=1, dtype=np.int64).astype(np.float32)], axis=1)
