# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt duplicates`: groups of items of a gallery that are nearly the same."""

import argparse
import json
from typing import Any

from trainer.commands.common import no_gallery, parse_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("gallery", metavar="G", help="directory made by `tgdt index`, or a repository of the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of a gallery on the Hub")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.95,
        metavar="COSINE",
        help="of the global embeddings, from which two items are near-duplicates (default: %(default)s)",
    )
    parser.add_argument(
        "--engine-option", action="append", default=[], metavar="KEY=VALUE", help="how to reach a gallery in Qdrant"
    )
    parser.add_argument("--json", action="store_true", help="one JSON list of ids per line")


def run(args: argparse.Namespace) -> int:
    """Find the groups and print them; no model is loaded."""
    from modeling_tgdt.retriever.directory import find_directory, open_index
    from modeling_tgdt.retriever.duplicates import find_duplicates

    options = parse_pairs("--engine-option", args.engine_option)
    index = open_index(find_directory(args.gallery, args.revision), options)
    if index is None:
        raise no_gallery(args)
    groups = find_duplicates(index, args.threshold)
    if args.json:
        for group in groups:
            print(json.dumps(group))
        return 0
    _print_groups(groups)
    print(f"{len(groups)} groups, {sum(len(group) - 1 for group in groups)} of {len(index)} items are near-duplicates")
    return 0


def _print_groups(groups: list[Any]) -> None:
    from modeling_tgdt.retriever.shown import printable

    for group in groups:
        print("\n".join(map(printable, group)) + "\n")
