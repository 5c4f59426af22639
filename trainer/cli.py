# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The `tgdt` command. Each verb lives in `trainer/commands/<verb>.py` and is imported only when it is called."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from trainer import __version__
from trainer.commands.common import count_repeats

VERBS = {
    "train": "train or fine-tune a model",
    "evaluate": "measure retrieval on a data set",
    "index": "build or extend a gallery from pictures or texts",
    "search": "search a gallery with words or a picture",
    "duplicates": "find what a gallery holds nearly twice",
    "explain": "show which word matched which region",
    "merge": "mix a fine-tuned model with the one that it began with",
    "convert": "convert a checkpoint of the authors' code",
    "export": "write a model for another runtime",
    "push": "publish a model, a gallery or both on the Hub",
    "demo": "train, search and draw on pictures made on the spot; or serve the demo page",
    "page": "search a gallery in a browser",
    "serve": "answer searches over HTTP",
    "bench": "time a gallery on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Command-line words after `tgdt`; those of the process when omitted.

    Returns:
        0 on success, 2 on bad input (with one line on standard error), 130 when interrupted, 141 when nobody reads
        the output any more (`tgdt search ... | head`).
    """
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would be written at exit
        return 141
    except KeyboardInterrupt:  # also while libraries are imported, which takes seconds
        print("tgdt: stopped", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    """Parse the command line and run its verb; errors that tell the user something become one line."""
    parser = argparse.ArgumentParser(prog="tgdt", description="Two-stage image-text retrieval.")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--version", action="version", version=f"tgdt {__version__}")
    parser.add_argument("--quiet", action="store_true", help="show warnings and results only")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=summary.capitalize() + ".")
        if verb == chosen:
            command = importlib.import_module(f"trainer.commands.{verb}")
            command.add_arguments(sub)
            count_repeats(sub)
    args = _parse(parser, argv)
    _set_up_logging(args.quiet)
    from modeling_tgdt.gallery.storage import GalleryBusyError

    try:
        code = command.run(args) or 0
        if sharding := sys.modules.get(
            "trainer.scoring.sharding"
        ):  # imported by the verbs that share work over processes
            sharding.leave_process_group()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # an OSError, too
        raise
    except (ValueError, TypeError, OSError, ImportError, MemoryError, GalleryBusyError) as error:
        if args.debug:
            raise
        return _complain(args.verb, error)
    except RuntimeError as error:
        if args.debug or not any(name in str(error) for name in _WRITERS):
            raise
        return _complain(args.verb, error)


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse the command line; words behind an option, which argparse of Python 3.11 leaves over, are words too."""
    args, left = parser.parse_known_args(argv)
    words, takes_words = [word for word in left if word != "--"], hasattr(args, "words")
    if words and (not takes_words or ("--" not in argv and any(word.startswith("-") for word in words))):
        hint = " (words that begin with a dash go behind --)" if takes_words else ""
        parser.error(f"unrecognized arguments: {' '.join(words)}{hint}")
    if words:
        args.words = [*args.words, *words]
    empty = next((name for name, value in vars(args).items() if value == ""), None)
    if empty is not None:  # as a path it would be the working directory
        parser.error(f"{empty} is empty: is a variable of the shell not set?")
    return args


_WRITERS = ("PytorchStreamWriter", "inline_container")  # of torch.save, which tells of a full disk by them alone


def _complain(verb: str, error: Exception) -> int:
    from modeling_tgdt.retriever.shown import printable

    message = printable(" ".join(str(error).split())) or type(error).__name__
    print(f"tgdt {verb}: error: {message}", file=sys.stderr)
    return 2


def _set_up_logging(quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("faiss.loader", "httpx", "httpcore", "datasets", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_warning()
    if quiet:
        transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
