# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt index`: build or extend a gallery from a folder of pictures or a file of texts."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from modeling_tgdt.index_tgdt import Kind
from modeling_tgdt.quantize_tgdt import STORAGE_DTYPES
from trainer.commands.search import parse_pairs
from trainer.devices import add_device_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "source", metavar="DIR", help="folder of pictures; with --texts a file of one text, or one JSON object "
        'like {"id": "a", "text": "..."}, per line',
    )  # fmt: skip
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="model on the Hub or in a directory")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--out", required=True, metavar="G", help="directory of the gallery; an existing one is extended"
    )
    parser.add_argument("--texts", action="store_true", help="index texts instead of pictures")
    parser.add_argument("--resume", action="store_true", help="leave out what the gallery has already")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="at a picture that cannot be read: stop, or go on",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="items per forward pass (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode pictures (default: number of cores)")
    add_device_argument(parser)
    parser.add_argument(
        "--token-dtype", choices=sorted(STORAGE_DTYPES), default="float16", help="precision of a new gallery's tokens"
    )
    parser.add_argument(
        "--pool-factor", type=int, default=1, metavar="N", help="keep a 1/N share of a new gallery's tokens"
    )
    parser.add_argument("--engine", default="exact", help="stage one of a new gallery (default: %(default)s)")
    parser.add_argument(
        "--engine-option", action="append", default=[], metavar="KEY=VALUE", help="of the engine; may be repeated"
    )
    parser.add_argument(
        "--copy-model",
        action="store_true",
        help="put a copy of the model into G, so that G can be moved or pushed alone",
    )


def run(args: argparse.Namespace) -> int:
    """Embed everything and say what was left out."""
    from modeling_tgdt.retrieval_tgdt import TGDTRetriever
    from modeling_tgdt.retriever_files_tgdt import INDEX_FOLDER, open_index, write_reference

    source, out = Path(args.source), Path(args.out)
    _check_source(source, args.texts)
    loaded = TGDTRetriever.from_pretrained(args.model, revision=args.revision, device=args.device)
    retriever = TGDTRetriever(loaded.model, loaded.processor, open_index(out))
    if retriever.index is None:
        kind: Kind = "text" if args.texts else "image"
        retriever.create_index(
            out / INDEX_FOLDER,
            kind=kind,
            token_dtype=args.token_dtype,
            pool_factor=args.pool_factor,
            engine=args.engine,
            engine_options=parse_pairs("--engine-option", args.engine_option),
        )
    if args.copy_model:
        retriever.model.save_pretrained(out)
        retriever.processor.save_pretrained(out)
    write_reference(out, args.model, args.revision, None if args.texts else str(source))
    options = {
        "batch_size": args.batch_size,
        "on_error": args.on_error,
        "resume": args.resume,
        "progress": not args.quiet,
    }
    if args.texts:
        ids, texts = zip(*_read_texts(source), strict=True)
        report = retriever.add_texts(texts, ids=ids, **options)
    else:
        report = retriever.add_images(source, workers=args.workers, **options)
    for name, why in report.skipped:
        print(f"skipped {name}: {why}")
    known = f", {report.unchanged} there already" if args.resume else ""
    size = 0 if retriever.index is None else len(retriever.index)
    print(f"{report.added} added, {len(report.skipped)} skipped{known}; {size} items in {out}")
    return 0


def _check_source(source: Path, texts: bool) -> None:
    if texts and not source.is_file():
        raise ValueError(f"--texts expects a file with one text per line, found no file at {str(source)!r}.")
    if not texts and not source.is_dir():
        raise ValueError(
            f"expected a folder of pictures, found none at {str(source)!r}; a file of texts needs --texts."
        )


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of a file; the ids of plain lines are their numbers from 1."""
    empty = True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        empty = False
        if not line.lstrip().startswith("{"):
            yield str(number), line.strip()
            continue
        try:
            row = json.loads(line)
            yield str(row.get("id", number)), row["text"]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f'{path}, line {number}: expected {{"id": ..., "text": ...}}, found {line[:80]!r}.'
            ) from error
    if empty:
        raise ValueError(f"{str(path)!r} holds no text.")
