# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`--device`: where a model runs, checked before anything is loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_device_argument(parser: argparse.ArgumentParser, flag: str = "--device", what: str = "the model runs") -> None:
    """Declare a flag that takes a device."""
    parser.add_argument(flag, type=torch_device, metavar="DEVICE", help=f"where {what}, such as cuda (default: cpu)")


def torch_device(name: str) -> torch.device:
    """Return a device that this machine has.

    Raises:
        argparse.ArgumentTypeError: For one that it has not.

    Example:
        >>> torch_device("cpu")
        device(type='cpu')
    """
    import torch  # `--help` need not wait for it

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        raise argparse.ArgumentTypeError(f"there is no device {name!r} here ({str(error).splitlines()[0]})") from error
    return device
