# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Temperatures, and biases of the sigmoid, that are learned (CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343)."""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

# Temperatures from 0.002 to 1; CLIP stops at 0.01, but a mean over words needs less than a cosine.
_MIN_LOG_SCALE, _MAX_LOG_SCALE = 0.0, math.log(500.0)


class LogitScales(nn.Module):
    """Learned logit scale of the global and of the token term, and their biases under the sigmoid.

    Args:
        temperatures: Temperatures to start from, global and token.
        biases: Biases to start from, or `None` for an objective without one.

    Example:
        >>> [round(value, 3) for value in LogitScales((0.05, 0.015), None)(1)[0].exp().tolist()]
        [20.0, 66.667]
    """

    def __init__(self, temperatures: tuple[float, float], biases: tuple[float, float] | None) -> None:
        super().__init__()
        self.temperatures, self.biases = temperatures, biases
        self.log_scale = nn.Parameter(torch.empty(2))
        if biases is not None:
            self.bias = nn.Parameter(torch.empty(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the start values; what a checkpoint holds stays."""
        init.copy_(self.log_scale, -torch.tensor(self.temperatures).log())
        if self.biases is not None:
            init.copy_(self.bias, torch.tensor(self.biases))

    def forward(self, rows: int) -> Tensor:
        """Return the log scales and then the biases, in at least float32 and once per row: (rows, 2) or (rows, 4).

        A loss reads their mean over rows. As a column of the batch they take the way of the embeddings: through a
        wrapped forward, mini-batches, and a gather over processes, each of which hands the gradient back.
        """
        dtype = torch.promote_types(self.log_scale.dtype, torch.float32)
        values = self.log_scale.to(dtype)
        # The value stops at the bounds, the gradient does not: a scale beyond them finds its way back.
        columns = [values + (values.clamp(_MIN_LOG_SCALE, _MAX_LOG_SCALE) - values).detach()]
        if self.biases is not None:
            columns.append(self.bias.to(dtype))
        return torch.cat(columns).expand(rows, -1)


__all__ = ["LogitScales"]
