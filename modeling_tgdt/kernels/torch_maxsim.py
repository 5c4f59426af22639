# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Max-sum in PyTorch over ragged tokens: where the kernel was not built, and in the memory of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Gather = Callable[[Tensor], Tensor]

# Values of the largest temporary: 16 MiB on a CPU, 256 MiB on an accelerator.
_VALUES = {"cpu": 1 << 22}
_DEVICE_VALUES = 1 << 26


def torch_maxsim(
    gather: Gather,
    starts: Tensor,
    counts: Tensor,
    words: tuple[np.ndarray, np.ndarray],
    offsets: np.ndarray,
    sum_over: Literal["query", "stored"],
) -> np.ndarray:
    """Score candidates of Q queries: the sum over words of the best region's dot product.

    The candidates of a query are cut into runs of one length, so that many queries share one matrix product.

    Args:
        gather: Turns token numbers (n,) int64 into float32 rows (n, D) on the device of `starts`.
        starts: (P,) int64, number of each candidate's first token, one query after another.
        counts: (P,) int64, how many tokens it has.
        words: Query tokens (sum of W, D) float32 and their offsets (Q + 1).
        offsets: (Q + 1), where each query's candidates begin and end.
        sum_over: Whose tokens are the words, the query's or the stored ones.

    Returns:
        (P,) float32. A pair without words or without regions scores 0.
    """
    scores = torch.zeros(len(starts), dtype=torch.float32, device=starts.device)
    rows, word_offsets = words
    widest = int(np.diff(word_offsets).max(initial=1)) * rows.shape[1]
    step = max(_budget(starts.device) // max(widest, 1), 1)  # queries whose padded words are held at a time
    with torch.autocast(starts.device.type, enabled=False):  # scores are float32 wherever this is called
        for first in range(0, len(offsets) - 1, step):
            ends, word_ends = offsets[first : first + step + 1], word_offsets[first : first + step + 1]
            block = slice(int(ends[0]), int(ends[-1]))  # candidates of these queries
            padded = _pad(rows[word_ends[0] : word_ends[-1]], word_ends, starts.device)
            scores[block] = _score_block(gather, starts[block], counts[block], *padded, ends - ends[0], sum_over)
    return scores.cpu().numpy()


def _score_block(
    gather: Gather,
    starts: Tensor,
    counts: Tensor,
    words: Tensor,
    lengths: Tensor,
    offsets: np.ndarray,
    sum_over: Literal["query", "stored"],
) -> Tensor:
    """Score the candidates of queries whose padded words (Q, W, D) fit into memory."""
    scores = torch.zeros(len(starts), dtype=torch.float32, device=starts.device)
    longest, most = int(counts.max()) if len(counts) else 0, int(np.diff(offsets).max(initial=0))  # tokens, candidates
    if not longest or not words.shape[1]:
        return scores
    budget = _budget(starts.device) // max(words.shape[1:])  # tokens; each becomes a row of D and one of W numbers
    size = min(max(budget // longest, 1), most)  # candidates of a run
    firsts, sizes, owners = (part.to(starts.device) for part in _runs(offsets, size))  # (runs,) each
    step = max(budget // max(size * longest, words.shape[1]), 1)  # runs at a time
    for block in (slice(first, first + step) for first in range(0, len(firsts), step)):
        slots = torch.arange(size, device=starts.device)
        real = slots < sizes[block, None]  # (B, L)
        pairs = (firsts[block, None] + slots).clamp(max=len(starts) - 1)  # (B, L), beyond a run's end any candidate
        block_scores = _score_runs(gather, starts[pairs], counts[pairs], words, lengths, owners[block], sum_over)
        scores[pairs[real]] = block_scores[real]
    return scores


def _budget(device: torch.device) -> int:
    return _VALUES.get(device.type, _DEVICE_VALUES)


def _pad(rows: np.ndarray, offsets: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return words (Q, W, D) with zeros behind each query's last, and how many each query has (Q,)."""
    lengths = torch.from_numpy(np.diff(offsets))
    parts = torch.from_numpy(np.ascontiguousarray(rows)).split(lengths.tolist())
    return pad_sequence(list(parts), batch_first=True).to(device), lengths.to(device)


def _runs(offsets: np.ndarray, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each query's candidates into runs of at most `size`: first place, length, and query of each run."""
    counts = np.diff(offsets)
    runs = -(-counts // size)  # (Q,), rounded up
    owners = np.repeat(np.arange(len(counts)), runs)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(runs) - runs, runs)  # of each run among its query's
    sizes = np.minimum(counts[owners] - number * size, size)
    return tuple(torch.from_numpy(part) for part in (offsets[:-1][owners] + number * size, sizes, owners))  # type: ignore


def _score_runs(
    gather: Gather,
    starts: Tensor,
    counts: Tensor,
    words: Tensor,
    lengths: Tensor,
    owners: Tensor,
    sum_over: Literal["query", "stored"],
) -> Tensor:
    """Score B runs of L candidates, (B, L); `owners` (B,) says whose `words` (Q, W, D) each run is compared with."""
    slots = torch.arange(max(int(counts.max()), 1), device=starts.device)
    stored = slots < counts[..., None]  # (B, L, R)
    tokens = torch.where(stored, starts[..., None] + slots, 0)  # (B, L, R), where nothing is stored the first of all
    rows = gather(tokens.flatten()).view(len(owners), -1, words.shape[2])  # (B, L * R, D)
    grid = (rows @ words[owners].mT).view(*stored.shape, -1)  # (B, L, R, W)
    asked = (torch.arange(words.shape[1], device=starts.device) < lengths[owners, None])[:, None]  # (B, 1, W)
    if sum_over == "query":
        best = grid.masked_fill(~stored[..., None], -torch.inf).amax(2)  # (B, L, W)
        return best.masked_fill(~asked | ~stored.any(2, keepdim=True), 0).sum(2)
    best = grid.masked_fill(~asked[:, :, None], -torch.inf).amax(3)  # (B, L, R)
    return best.masked_fill(~stored | ~asked.any(2, keepdim=True), 0).sum(2)
