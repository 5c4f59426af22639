# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A gallery in the memory of an accelerator: both stages scored there, ranked as from the files.

Stage one is a matrix product; tokens are scored by a Triton kernel where it works, or by PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..kernels.maxsim import SumOver, query_dtype, rounded_queries
from ..kernels.quantize import encode_tokens
from ..kernels.ragged import RaggedQueries
from ..kernels.ranking import Ranked, offsets_of
from ..kernels.torch_maxsim import torch_maxsim
from ..kernels.triton_check import triton_scores
from .scan import recheck
from .segment import Segment

_SCORES = 1 << 26  # global scores held at a time: 256 MiB
_ROUNDING = 2e-3  # of |query| |row|: bounds the error of a float32 product, with the 10-bit mantissas of TF32 too


class DeviceGallery:
    """Segments copied to a device in the dtypes of the store.

    Args:
        segments: N rows in all, at least one.
        device: Where to.

    Raises:
        MemoryError: When the device has too little memory.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self.segments = list(segments)
        stores = [segment.store for segment in segments]
        self.token_dtype = stores[0].token_dtype
        bases = offsets_of(np.array([len(store.rows) for store in stores]))
        scales = [store.scales[:, :1] for store in stores if store.scales is not None]
        try:
            self.globals = _upload([segment.globals for segment in segments], device)
            self.rows = _upload([store.rows for store in stores], device)
            self.scales = _upload(scales, device) if scales else None
            self.starts = _upload([s.offsets[:-1] + base for s, base in zip(stores, bases, strict=False)], device)
            self.counts = _upload([np.diff(store.offsets) for store in stores], device)
        except torch.OutOfMemoryError as error:
            size = sum(s.globals.nbytes + s.store.rows.nbytes for s in segments) / 2**30
            raise MemoryError(
                f"The gallery takes {size:.1f} GiB, more than is free on {device}. Build it with token_dtype='int8' "
                "or pool_factor, or search it from its files: to('cpu')."
            ) from error

    def shortlist(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Ranked:
        """Find the k best rows of each query by dot product; exact, and the scores are those of the files.

        Args:
            queries: (Q, D) float32.
            k: At most the number of allowed rows.
            allowed: (N,) bool, or None for every row.

        Returns:
            For each query its k best rows with all ties of the k-th, best first.
        """
        device, rows = self.globals.device, []
        wanted = torch.from_numpy(queries).to(device)
        refused = None if allowed is None else ~torch.from_numpy(allowed).to(device)
        norm = max(segment.record.max_norm for segment in self.segments)
        for block in wanted.split(max(1, _SCORES // len(self.globals))):
            with torch.autocast(device.type, enabled=False):
                scores = block @ self.globals.T
            if refused is not None:
                scores.masked_fill_(refused, -torch.inf)
            border = scores.topk(k, dim=1).values[:, -1] - 2 * _ROUNDING * norm * block.norm(dim=1)
            near = scores >= border[:, None]
            rows += near.nonzero()[:, 1].cpu().split(near.sum(1).tolist())
        return recheck(self.segments, queries, [near_rows.numpy() for near_rows in rows], k)

    def maxsim(self, queries: RaggedQueries, rows: np.ndarray, offsets: np.ndarray, sum_over: SumOver) -> np.ndarray:
        """Score rows by their tokens.

        Args:
            queries: Tokens of Q queries.
            rows: (P,) int64, one query's candidates after another's.
            offsets: (Q + 1), where they begin and end.
            sum_over: Whose tokens are the words.

        Returns:
            (P,) float32, those of `kernels.maxsim.maxsim` up to float32 rounding.
        """
        chosen = torch.from_numpy(rows).to(self.starts.device)
        starts, counts = self.starts[chosen], self.counts[chosen]
        if triton_scores(self.rows.device, self.rows.dtype):
            return self._triton_maxsim(queries, starts, counts, offsets, sum_over)
        words = rounded_queries(queries, self.token_dtype)
        return torch_maxsim(self._gather, starts, counts, words, offsets, sum_over)

    def _triton_maxsim(
        self, queries: RaggedQueries, starts: Tensor, counts: Tensor, offsets: np.ndarray, sum_over: SumOver
    ) -> np.ndarray:
        from ..kernels.triton_maxsim import TokenSpans, triton_maxsim

        codes, scales = encode_tokens(queries.rows, query_dtype(self.token_dtype))
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))  # query of each candidate
        arrays = codes, queries.offsets[:-1][owners], np.diff(queries.offsets)[owners]
        rows, *spans = (_upload([array], self.rows.device) for array in arrays)
        scale = None if scales is None else _upload([scales[:, :1]], self.rows.device)
        sides = TokenSpans(rows, scale, *spans), TokenSpans(self.rows, self.scales, starts, counts)
        return triton_maxsim(*(sides if sum_over == "query" else sides[::-1])).cpu().numpy()

    def _gather(self, tokens: Tensor) -> Tensor:
        rows = self.rows[tokens].float()
        return rows if self.scales is None else rows * self.scales[tokens]


def _upload(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Copy arrays (Ns, ...), one after another, to the device; host memory holds one at a time."""
    bits = arrays[0].dtype == np.uint16  # bfloat16 of the store
    first = torch.tensor(arrays[0][:0].view(np.int16) if bits else arrays[0][:0])
    joined = torch.empty((sum(map(len, arrays)), *first.shape[1:]), dtype=first.dtype, device=device)
    start = 0
    for array in arrays:
        joined[start : start + len(array)] = torch.tensor(array.view(np.int16) if bits else array)
        start += len(array)
    return joined.view(torch.bfloat16) if bits else joined
