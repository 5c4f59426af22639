# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""`tgdt index`: build or extend a gallery from a folder of pictures or a file of texts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.common import add_device_argument, parse_pairs

if TYPE_CHECKING:
    from modeling_tgdt.index_tgdt import TGDTIndex
    from modeling_tgdt.retrieval_tgdt import AddReport, TGDTRetriever

RowOf = Callable[[str], dict[str, Any]] | None

# Those of the token store, written again because `--help` must not import it.
TOKEN_DTYPES = ("bfloat16", "binary", "float16", "float32", "int16", "int8")


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
        "--sync",
        action="store_true",
        help="make G equal to DIR again: add what is new or changed, rename, delete what is gone",
    )
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
        "--exif", action="store_true", help="keep the pictures' date, camera and place as metadata, where files tell"
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="largest picture that is read (default: 89 million pixels)"
    )
    parser.add_argument(
        "--draft",
        action="store_true",
        help="decode large JPEGs at a smaller scale: faster, with nearly the same embeddings",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="items per forward pass (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode pictures (default: number of cores)")
    add_device_argument(parser)
    parser.add_argument(
        "--global-dim",
        type=int,
        metavar="N",
        help="cut a new gallery's global embeddings to N numbers, with a model that was trained for it (default: all)",
    )
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
    """Embed everything and say what was left out; in a launch of several processes each embeds a share."""
    from modeling_tgdt.retrieval_tgdt import TGDTRetriever
    from modeling_tgdt.retriever.memory import keep_large_blocks
    from trainer.scoring.sharding import is_main_process, join_launch

    keep_large_blocks()
    if args.max_pixels is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = args.max_pixels  # Pillow has a limit of its own
    source = Path(args.source)
    _check_source(source, args)
    texts = list(_read_texts(source)) if args.texts else []
    row_of = _metadata(args, texts)
    group, device = join_launch(args.device)
    loaded = TGDTRetriever.from_pretrained(args.model, revision=args.revision, device=device)
    if group is not None:
        group.first(partial(_set_up, loaded, args))  # the others open what it made
    retriever: Any = _set_up(loaded, args) if group is None else _open(loaded, args)
    options = {"batch_size": args.batch_size, "on_error": args.on_error, "progress": not args.quiet}
    if not args.texts:
        options |= {"workers": args.workers, "draft": args.draft}
    report = _sync(retriever, args, row_of, options) if args.sync else _add(retriever, args, texts, row_of, options)
    if is_main_process():
        _build_engine(retriever.index, report.added)
    return 0


def _add(
    retriever: Any, args: argparse.Namespace, texts: list[tuple[str, str]], row_of: RowOf, options: Any
) -> AddReport:
    from modeling_tgdt.retriever.picture_sources import list_pictures
    from trainer.scoring.sharding import is_main_process

    names = (name for name, _ in texts or list_pictures(args.source))
    options |= {"metadata": None if row_of is None else map(row_of, names), "resume": args.resume}
    if args.texts:
        report = retriever.add_texts([text for _, text in texts], ids=[name for name, _ in texts], **options)
    else:
        report = retriever.add_images(Path(args.source), **options)
    if is_main_process():
        known = f", {report.unchanged} there already" if args.resume else ""
        known += f", {report.updated} with new metadata" if report.updated else ""
        _print_report(f"{report.added} added, {len(report.skipped)} skipped{known}", report, retriever.index, args)
        if not len(retriever.index):
            raise ValueError(
                f"Nothing was indexed: found no readable {'text' if args.texts else 'picture'} in {args.source!r}."
            )
    return report


def _sync(retriever: Any, args: argparse.Namespace, row_of: RowOf, options: Any) -> AddReport:
    from modeling_tgdt.retriever.syncing import RECORD, sync_folder
    from trainer.scoring.sharding import is_main_process

    report = sync_folder(retriever, args.source, Path(args.out, RECORD), row_of, **options)
    if is_main_process():
        if args.metadata is not None and row_of is not None:
            with retriever.index as index:
                names = list(index)
                index.update_metadata(names, [row_of(name) for name in names])
        counts = f"{report.new} new, {report.changed} changed, {report.renamed} renamed, {report.deleted} deleted"
        skipped = f"{report.unchanged} unchanged, {len(report.embedded.skipped)} skipped"
        _print_report(f"{counts}, {skipped}", report.embedded, retriever.index, args)
    return report.embedded


def _print_report(summary: str, report: AddReport, index: TGDTIndex, args: argparse.Namespace) -> None:
    from modeling_tgdt.retriever.shown import printable

    for name, why in report.skipped:
        print(printable(f"skipped {name}: {why}"))
    if report.no_pictures:
        others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(report.no_pictures.items()))
        print(f"left out, no pictures: {others}")
    print(f"{summary}; {len(index)} items in {Path(args.out)}")
    if not index.settings["local_weight"]:
        print("its search ranks by the global score: the tokens of this model are untrained (local_score_weight 0)")


def _set_up(loaded: TGDTRetriever, args: argparse.Namespace) -> TGDTRetriever:
    """Open or make the gallery, and write beside it what names its model."""
    from modeling_tgdt.retriever.directory import write_reference

    retriever, out = _open(loaded, args), Path(args.out)
    _gallery(retriever, args, out, parse_pairs("--engine-option", args.engine_option))
    if args.copy_model:
        retriever.save_model(out)
    write_reference(out, args.model, args.revision, None if args.texts else args.source)
    return retriever


def _open(loaded: TGDTRetriever, args: argparse.Namespace) -> TGDTRetriever:
    """Return a retriever over the gallery that is there, if there is one."""
    from modeling_tgdt.retriever.directory import open_index

    there = open_index(Path(args.out), parse_pairs("--engine-option", args.engine_option))
    return type(loaded)(loaded.model, loaded.processor, there, hubness=loaded.hubness)


def _metadata(args: argparse.Namespace, texts: list[tuple[str, str]]) -> RowOf:
    """Return what tells the metadata of an item by its name: that of `--metadata`, and of its file with `--exif`."""
    if args.metadata is None and not args.exif:
        return None
    from modeling_tgdt.retriever.picture_sources import list_pictures
    from trainer.data.exif import read_exif
    from trainer.data.index_metadata import read_metadata

    named: dict[str, dict[str, Any]] = {}
    if args.metadata is not None:
        names = [name for name, _ in (texts if args.texts else list_pictures(args.source))]
        named = dict(zip(names, read_metadata(Path(args.metadata), names), strict=True))

    def row_of(name: str) -> dict[str, Any]:
        return {**(read_exif(Path(args.source, name)) if args.exif else {}), **named.get(name, {})}

    return row_of


def _gallery(retriever: Any, args: argparse.Namespace, out: Path, options: dict[str, Any]) -> TGDTIndex:
    """Make the gallery with the settings asked for, or check that the one that is there has them.

    Raises:
        ValueError: When it has others: they are fixed when a gallery is made.
    """
    from modeling_tgdt.retriever.directory import INDEX_FOLDER

    given = {key: getattr(args, key) for key in ("token_dtype", "pool_factor", "engine", "global_dim")}
    asked: dict[str, Any] = {"kind": "text" if args.texts else "image"}
    asked |= {key: value for key, value in given.items() if value is not None}
    asked |= {"hubness": False} if args.no_hubness else {}
    if retriever.index is None:
        return retriever.create_index(out / INDEX_FOLDER, engine_options=options, **asked)
    settings = retriever.index.settings
    known = {"hubness": False, "global_dim": settings["dim"], **settings, **settings["engine_options"]}
    fixed = {key: value for key, value in options.items() if key != "url"}  # a server may move
    for key, value in {**asked, **fixed}.items():
        if known.get(key) != value:
            raise ValueError(
                f"The gallery in {str(out)!r} has {key}={known.get(key, 'its default')!r}, found {value!r}. Give what "
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


def _check_source(source: Path, args: argparse.Namespace) -> None:
    texts = args.texts
    for flag in ("sync", "exif", "draft"):
        if texts and getattr(args, flag):
            raise ValueError(f"--{flag} expects a folder of pictures, found --texts. Leave one of the two out.")
    if texts and not source.is_file():
        raise ValueError(f"--texts expects a file with one text per line, found no file at {str(source)!r}.")
    if not texts and not source.is_dir():
        raise ValueError(
            f"Expected a folder of pictures, found none at {str(source)!r}; a file of texts needs --texts."
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
