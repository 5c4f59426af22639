# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt page`: search one's own gallery in a browser."""

import argparse
from itertools import islice

from trainer.commands.common import add_gallery_arguments, load_retriever, pictures_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_gallery_arguments(parser)
    parser.add_argument("--pictures", metavar="DIR", help="folder that was indexed (default: where it was)")
    parser.add_argument("--example", nargs="+", default=[], metavar="WORDS", help="searches to offer, each in quotes")
    parser.add_argument("--port", type=int, default=7860, help="port on this machine (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Open the page on the loopback interface until it is stopped."""
    from trainer.serving.page import open_page

    retriever = load_retriever(args)
    folder = pictures_folder(args) if retriever.index.kind == "image" else None
    if folder is not None and not any((folder / name).is_file() for name in islice(retriever.index, 20)):
        raise ValueError(f"None of the gallery's pictures is in {str(folder)!r}. Pass --pictures DIR.")
    open_page(retriever, folder, args.example, server_port=args.port, quiet=args.quiet)
    return 0
