# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What verbs share: their common options, and opening what those name. Nothing heavy is imported for `--help`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MODES = ("two_stage", "global", "local")


class _Counted(argparse._StoreAction):
    """Stores an option; repeated, one of several values takes them all, and one of a single value is refused."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        seen = namespace.__dict__.setdefault("_seen", set())
        if self.dest in seen:
            if self.nargs not in ("+", "*"):
                parser.error(f"{option_string} is given twice; give it once.")
            values = [*getattr(namespace, self.dest), *values]
        seen.add(self.dest)
        setattr(namespace, self.dest, values)


def count_repeats(parser: argparse.ArgumentParser) -> None:
    """Let no repeated option replace an earlier one in silence.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> option = parser.add_argument("--set", nargs="+", default=["x"])
        >>> count_repeats(parser)
        >>> parser.parse_args(["--set", "a", "b", "--set", "c"]).set
        ['a', 'b', 'c']
    """
    for action in parser._actions:
        if type(action) is argparse._StoreAction and action.option_strings:
            action.__class__ = _Counted


def add_gallery_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every verb over a gallery takes."""
    parser.add_argument("gallery", metavar="G", help="directory made by `tgdt index`, or a repository of the Hub")
    parser.add_argument("--model", metavar="ID|DIR", help="model to use instead of the one that the gallery names")
    parser.add_argument("--revision", help="branch, tag or commit of a gallery on the Hub")
    parser.add_argument(
        "--engine-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how to reach a gallery in Qdrant: url=https://... (default: QDRANT_URL), or embedded=local",
    )
    add_device_argument(parser)
    add_device_argument(parser, "--gallery-device", "the gallery is scored")


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


def load_retriever(args: argparse.Namespace) -> Any:
    """Open the gallery and the model that it names.

    Raises:
        ValueError: When the directory holds no gallery.
    """
    from modeling_tgdt.retrieval_tgdt import TGDTRetriever

    retriever = TGDTRetriever.from_pretrained(
        args.gallery,
        model=args.model,
        revision=args.revision,
        device=args.device,
        engine_options=parse_pairs("--engine-option", args.engine_option),
    )
    if retriever.index is None:
        raise no_gallery(args)
    if args.gallery_device is not None:
        retriever.index.to(args.gallery_device)
    return retriever


def no_gallery(args: argparse.Namespace) -> ValueError:
    """Return the error for a directory that holds no gallery."""
    return ValueError(f"There is no gallery in {args.gallery!r}. Build one with `tgdt index DIR --model M --out G`.")


def pictures_folder(args: argparse.Namespace) -> Path:
    """Return the folder that was indexed: `--pictures`, or what the gallery remembers.

    Raises:
        ValueError: When the gallery remembers none, or the folder does not exist.
    """
    from modeling_tgdt.retriever.directory import read_reference

    named = args.pictures or read_reference(Path(args.gallery)).get("pictures")
    if named is None:
        raise ValueError("The gallery does not know the folder of its pictures. Pass --pictures DIR.")
    folder = Path(named) if args.pictures else Path(args.gallery, named)
    if not folder.is_dir():
        raise ValueError(f"Expected the pictures in {str(folder)!r}, found no folder. Pass --pictures DIR.")
    return folder


def parse_pairs(flag: str, pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE arguments; a value is JSON, or else a string.

    Raises:
        ValueError: When one has no key.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (equals and key):
            raise ValueError(f"{flag} expects KEY=VALUE, found {pair!r}.")
        values[key] = _json_or_text(value)
    return values


def parse_where(conditions: list[str]) -> dict[str, Any] | None:
    """Read `--where` arguments: `year>=2021`, `year!=2021`, `place^=New`, `year=[2023,2024]`, or a filter as JSON.

    Raises:
        ValueError: When one is not a condition.

    Example:
        >>> parse_where(["year>=2021", "tag=sea"])
        {'and': [{'year': {'gte': 2021}}, {'tag': 'sea'}]}
    """
    parts = [_where_part(condition) for condition in conditions]
    return {"and": parts} if len(parts) > 1 else parts[0] if parts else None


_WHERE = re.compile(r"([^=<>!^]+)(>=|<=|!=|\^=|=|>|<)(.*)", re.DOTALL)
_OPERATORS = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "^=": "prefix", "!=": "not"}


def _where_part(condition: str) -> dict[str, Any]:
    if condition.lstrip().startswith("{"):
        try:
            return json.loads(condition)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"--where expects JSON after {{, found {condition[:80]!r}: {error}.") from error
    match = _WHERE.fullmatch(condition)
    if match is None:
        raise ValueError(f"--where expects KEY=VALUE, KEY>=VALUE or a JSON object, found {condition!r}.")
    key, operator, text = match.groups()
    value = text if operator == "^=" else _json_or_text(text)
    return {key: value} if operator == "=" else {key: {_OPERATORS[operator]: value}}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
