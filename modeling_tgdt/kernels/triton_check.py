# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Whether the Triton kernel of the re-rank works on a device; see `passes` in `similarity_tgdt.py`."""

from __future__ import annotations

import torch

from .. import similarity_tgdt as support


def triton_scores(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether `triton_maxsim` works for tokens of `dtype` there."""
    return support.may_use_triton(device) and support.passes(_check_maxsim, device, dtype)


def _check_maxsim(device: torch.device, dtype: torch.dtype) -> bool:
    from .triton_maxsim import TokenSpans, triton_maxsim

    rows = support.integers(40, support.CHECK_DIM, device=device, dtype=dtype)
    scales = None if dtype.is_floating_point else torch.full((40, 1), 0.5, dtype=torch.float32, device=device)
    side_spans = [(0, 5), (3, 0), (20, 20)], [(10, 18), (0, 7), (2, 1)]  # start and number of words, of regions
    sides = [TokenSpans(rows, scales, *torch.tensor(spans, device=device).T.contiguous()) for spans in side_spans]
    tokens = rows.double() * (1 if scales is None else scales)
    expected = [
        (tokens[word : word + words] @ tokens[region : region + regions].T).amax(1).sum()
        for (word, words), (region, regions) in zip(*side_spans, strict=True)
    ]
    return torch.equal(triton_maxsim(*sides).double(), torch.stack(expected))
