# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt index`: build or extend a gallery from a folder of pictures or a file of texts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.common import add_device_argument, parse_pairs

if TYPE_CHECKING:
    from modeling_tgdt.index_tgdt import TGDTIndex

# Those of the token store, written again because `--help` must not import it.
TOKEN_DTYPES = ("bfloat16", "float16", "float32", "int16", "int8")


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
    parser.add_argument(
        "--metadata",
        metavar="FILE",
        help="CSV or JSONL; its column `file_name` or `id` names the picture, relative to DIR, or the text",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="largest picture that is read (default: 89 million pixels)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="items per forward pass (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode pictures (default: number of cores)")
    add_device_argument(parser)
    parser.add_argument(
        "--token-dtype", choices=TOKEN_DTYPES, help="precision of a new gallery's tokens (default: float16)"
    )
    parser.add_argument(
        "--pool-factor", type=int, metavar="N", help="keep a 1/N share of a new gallery's tokens (default: 1)"
    )
    parser.add_argument(
        "--no-hubness", action="store_true", help="a new gallery without the model's hubness correction"
    )
    parser.add_argument("--engine", help="stage one of a new gallery (default: exact)")
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
    from modeling_tgdt.retriever.directory import open_index, write_reference
    from modeling_tgdt.retriever.memory import keep_large_blocks
    from modeling_tgdt.retriever.shown import printable

    keep_large_blocks()
    if args.max_pixels is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = args.max_pixels  # Pillow has a limit of its own
    source, out = Path(args.source), Path(args.out)
    engine_options = parse_pairs("--engine-option", args.engine_option)
    _check_source(source, args.texts)
    texts = list(_read_texts(source)) if args.texts else []
    metadata = _metadata(args, texts)
    loaded = TGDTRetriever.from_pretrained(args.model, revision=args.revision, device=args.device)
    there = open_index(out, engine_options)
    retriever = TGDTRetriever(loaded.model, loaded.processor, there, hubness=loaded.hubness)
    index = _gallery(retriever, args, out, engine_options)
    if args.copy_model:
        retriever.save_model(out)
    write_reference(out, args.model, args.revision, None if args.texts else str(source))
    options = {
        "metadata": metadata,
        "batch_size": args.batch_size,
        "on_error": args.on_error,
        "resume": args.resume,
        "progress": not args.quiet,
    }
    if args.texts:
        report = retriever.add_texts([text for _, text in texts], ids=[name for name, _ in texts], **options)
    else:
        report = retriever.add_images(source, workers=args.workers, **options)
    for name, why in report.skipped:
        print(printable(f"skipped {name}: {why}"))
    if report.no_pictures:
        others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(report.no_pictures.items()))
        print(f"left out, no pictures: {others}")
    known = f", {report.unchanged} there already" if args.resume else ""
    known += f", {report.updated} with new metadata" if report.updated else ""
    print(f"{report.added} added, {len(report.skipped)} skipped{known}; {len(index)} items in {out}")
    if not index.settings["local_weight"]:
        print("its search ranks by the global score: the tokens of this model are untrained (local_score_weight 0)")
    _build_engine(index, report.added)
    return 0


def _metadata(args: argparse.Namespace, texts: list[tuple[str, str]]) -> list[dict[str, Any]] | None:
    """Read `--metadata` in the order of the items."""
    if args.metadata is None:
        return None
    from modeling_tgdt.retriever.picture_sources import list_pictures
    from trainer.data.index_metadata import read_metadata

    items = texts if args.texts else list_pictures(args.source)
    return read_metadata(Path(args.metadata), [name for name, _ in items])


def _gallery(retriever: Any, args: argparse.Namespace, out: Path, options: dict[str, Any]) -> TGDTIndex:
    """Make the gallery with the settings asked for, or check that the one that is there has them.

    Raises:
        ValueError: When it has others: they are fixed when a gallery is made.
    """
    from modeling_tgdt.retriever.directory import INDEX_FOLDER

    given = {key: getattr(args, key) for key in ("token_dtype", "pool_factor", "engine")}
    asked: dict[str, Any] = {"kind": "text" if args.texts else "image"}
    asked |= {key: value for key, value in given.items() if value is not None}
    asked |= {"hubness": False} if args.no_hubness else {}
    if retriever.index is None:
        return retriever.create_index(out / INDEX_FOLDER, engine_options=options, **asked)
    settings = retriever.index.settings
    known = {"hubness": False, **settings, **settings["engine_options"]}
    fixed = {key: value for key, value in options.items() if key != "url"}  # a server may move
    for key, value in {**asked, **fixed}.items():
        if known.get(key) != value:
            raise ValueError(
                f"the gallery in {str(out)!r} has {key}={known.get(key, 'its default')!r}, found {value!r}; give what "
                "it has, or build another gallery with another --out."
            )
    return retriever.index


def _build_engine(index: TGDTIndex, added: int) -> None:
    """Build the FAISS index of a gallery that is large enough, and again once it grew by a tenth.

    Until then stage one scans the new items exactly.
    """
    from modeling_tgdt.gallery.faiss_engine import FaissEngine

    if index.settings["engine"] != "faiss":
        return
    wanted = 10 * added >= len(index) or not any(index.path.glob("engine-*.bin"))
    if wanted and len(index) >= FaissEngine(**index.settings["engine_options"]).min_rows:
        with index:
            index.compact()


def _check_source(source: Path, texts: bool) -> None:
    if texts and not source.is_file():
        raise ValueError(f"--texts expects a file with one text per line, found no file at {str(source)!r}.")
    if not texts and not source.is_dir():
        raise ValueError(
            f"expected a folder of pictures, found none at {str(source)!r}; a file of texts needs --texts."
        )


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of a file; the ids of plain lines are their numbers from 1."""
    from modeling_tgdt.retriever.picture_sources import is_missing, row_id
    from trainer.data.text_files import text_lines

    empty = True
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        empty = False
        if not line.lstrip().startswith("{"):
            yield str(number), line.strip()
            continue
        try:
            row = json.loads(line)
            yield str(number) if is_missing(row.get("id")) else row_id(row["id"], number), row["text"]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f'{path}, line {number}: expected {{"id": ..., "text": ...}}, found {line[:80]!r}.'
            ) from error
    if empty:
        raise ValueError(f"{str(path)!r} holds no text.")
