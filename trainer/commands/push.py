# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt push`: publish a model with its processor, code, card and gallery on the Hub."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("directory", metavar="DIR", help="what `tgdt train`, `tgdt index` or save_pretrained made")
    parser.add_argument("repo_id", metavar="REPO_ID", help="model repository, such as user/name; made when missing")
    parser.add_argument(
        "--gallery-repo", metavar="REPO_ID", help="dataset repository for the gallery (default: with the model)"
    )
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--message", default="Upload with tgdt push", help="of the commit (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Push, and say where everything is."""
    from trainer.publishing.publish import network_errors, publish

    if not Path(args.directory).is_dir():
        raise ValueError(f"Expected a directory with a model, found none at {args.directory!r}.")
    try:
        published = publish(
            args.directory,
            args.repo_id,
            gallery_repo=args.gallery_repo,
            private=args.private or None,
            message=args.message,
        )
    except network_errors() as error:
        if isinstance(error, OSError):  # the Hub says itself what is wrong
            raise
        raise OSError(f"The Hub could not be reached ({error}). What it holds is unchanged. Push again.") from error
    print(f"model: {published.model}")
    if published.gallery is not None:
        print(f"gallery, {published.items} items: {published.gallery}")
    elif published.items:
        print(f"with a gallery of {published.items} items")
    return 0
