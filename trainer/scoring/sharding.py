# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Share evaluation over the processes of an Accelerate launch; with one process everything is the identity."""

from __future__ import annotations

import gc
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor
from torch import distributed as dist

from modeling_tgdt.gallery.processes import ProcessGroup, process_group

_PATIENCE = timedelta(days=1)  # processes that share a long work end apart; a launcher ends them when one dies


def launch_state() -> PartialState:
    """Meet the other processes of a launch, on the CPU too where there is no GPU, and return what is known of it."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def join_launch(device: torch.device | None = None) -> tuple[ProcessGroup | None, torch.device | None]:
    """Meet the other processes of a launch (`accelerate launch`, `torchrun`).

    Args:
        device: Where the model is to run; of several GPUs each process gets its own.

    Returns:
        The processes, None without others, and the device.
    """
    state = launch_state()
    group = process_group()
    if group is not None and device is not None and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", state.local_process_index)
    return group, device


def shard(count: int, *, even: bool = False) -> Tensor:
    """Return the item numbers of this process: a contiguous share.

    Args:
        count: Items in all.
        even: Whether every process gets equally many, the last items repeated where needed.
    """
    state = PartialState()
    size = -(-count // state.num_processes)
    start = state.process_index * size
    if even:
        return torch.arange(start, start + size).clamp(max=count - 1)
    return torch.arange(min(start, count), min(start + size, count))


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in process order, on the CPU.

    Args:
        rows: (n, ...) with any n per process.

    Returns:
        (sum of n, ...).
    """
    state = PartialState()
    if state.num_processes == 1:
        return rows.cpu()
    counts = [torch.zeros(1, dtype=torch.int64, device=state.device) for _ in range(state.num_processes)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=state.device))
    sizes = [int(count) for count in counts]
    local = torch.zeros((max(sizes), *rows.shape[1:]), dtype=rows.dtype, device=state.device)
    local[: len(rows)] = rows.to(state.device)
    parts = [torch.empty_like(local) for _ in sizes]
    dist.all_gather(parts, local)
    return torch.cat([part[:size].cpu() for part, size in zip(parts, sizes, strict=True)])


def sum_over_processes(values: Tensor) -> Tensor:
    """Add a tensor of one shape over all processes; the result is on the CPU.

    Args:
        values: The share of this process.
    """
    state = PartialState()
    if state.num_processes == 1:
        return values.cpu()
    total = values.to(state.device, copy=True)
    dist.all_reduce(total)
    return total.cpu()


def is_main_process() -> bool:
    """Return whether this process shows progress and writes files."""
    return bool(PartialState().is_main_process)


def leave_process_group() -> None:
    """Wait for the other processes and leave their group; call it last, after the work succeeded.

    A process that exits while others still talk to it, or whose DDP model outlives the group, now and then aborts
    (SIGABRT) although its work is done.
    """
    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
