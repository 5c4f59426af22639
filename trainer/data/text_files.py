# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The one reader of text files: their encoding, their lines, delimited tables and JSON lines."""

from __future__ import annotations

import codecs
import csv
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from modeling_tgdt.retriever.picture_sources import looks_like_picture

from .columns import may_hold_text

logger = logging.getLogger(__name__)

DELIMITED = (".csv", ".tsv", ".txt")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK = 1 << 20
_DELIMITERS = "\t|;,"
_EXCEL_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_LATE_QUOTES = re.compile(r'\s+"((?:[^"]|"")*)"\s*')
_MAX_FIELD = 1 << 27  # characters; csv's own limit of 131,072 is less than some captions


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file: by its byte-order mark, otherwise UTF-8, UTF-16 or Windows-1252.

    Raises:
        ValueError: When it is none of these.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:  # no text holds NUL, every second byte of Latin letters in UTF-16 is one
        even, odd = head[::2].count(0), head[1::2].count(0)
        if min(even, odd) or 8 * (even + odd) < len(head):
            raise _no_text(path, head.index(0))
        return "utf-16-le" if odd else "utf-16-be"
    if _decodes(path, "utf-8"):
        return "utf-8"
    if not _decodes(path, "cp1252"):
        raise ValueError(f"{path} is neither UTF-8, UTF-16 nor Windows-1252. Save it as UTF-8.")
    logger.warning("%s is not UTF-8; it is read as Windows-1252. Save it as UTF-8 if letters look wrong.", path)
    return "cp1252"


def open_text(path: Path) -> TextIO:
    """Open a text file in its encoding; lines end at `\\n`, `\\r\\n` or `\\r` only, and keep their ends."""
    return path.open(encoding=encoding_of(path), newline="")


def read_text(path: Path) -> str:
    """Return a whole text file.

    Raises:
        ValueError: When it cannot be decoded.
    """
    try:
        with open_text(path) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be decoded: {error}. Save it as UTF-8.") from error


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without their ends; blank lines at the end are left out.

    A U+2028, a form feed and their like are part of a line, unlike with `str.splitlines`.
    """
    lines = re.split(r"\r\n|\n|\r", read_text(path))
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, or of one JSON list.

    Raises:
        ValueError: When something else is there, or nothing; the message names the line.
    """
    rows = _json_objects(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f'{path} holds no rows: expected objects like {{"file_name": "a.jpg", ...}}.')
    yield first
    yield from rows


def _json_objects(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".json":
        content = _parsed(read_text(path), f"{path}")
        if isinstance(content, list):
            yield from (_object(row, f"{path}, entry {number}") for number, row in enumerate(content))
            return
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _object(_parsed(line, where), where)


def table_rows(path: Path, *, free_text: bool = True) -> Iterator[dict[str, str]]:
    """Yield the rows of a delimited file as stripped text; a file without a header has `file_name` and `caption`.

    Blank rows are left out.

    Args:
        path: The file.
        free_text: Whether unquoted delimiters in the last column are part of its text, as in captions; never in one
            that names pictures, photos or splits.

    Raises:
        ValueError: When there are no rows, two columns of one name, a row that is shorter than the header or a quote
            that stays open; it names the line.
    """
    csv.field_size_limit(_MAX_FIELD)
    with open_text(path) as file:
        first, skipped = file.readline(), 0
        hint = _EXCEL_HINT.fullmatch(first)
        if hint:
            first, skipped = file.readline(), 1
        mark = hint.group(1) if hint else delimiter_of(first)
        rows = _records(_again(first, file), mark, path, skipped)
        _, header = next(rows, (0, []))
        if not header:
            raise ValueError(f"{path} is empty: expected a header, such as file_name,caption.")
        names, number = [name.strip() for name in header], 0
        if len(names) == 2 and looks_like_picture(names[0]):
            yield {"file_name": names[0], "caption": names[1]}
            names, number = ["file_name", "caption"], 1
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path} has {names.count(twice)} columns {twice!r}: rename or remove all but one.")
        free = free_text and may_hold_text(names[-1])
        for number, row in rows:
            if len(row) < len(names) or (len(row) > len(names) and not free):
                raise ValueError(
                    f"Line {number} of {path} has {len(row)} fields, the header has {len(names)}. Found {row!r}."
                )
            values = [*row[: len(names) - 1], mark.join(row[len(names) - 1 :])]
            yield {name: _unquoted(value).strip() for name, value in zip(names, values, strict=True)}
        if not number:
            raise ValueError(f"Expected rows in {path} below its header, {','.join(names)!r}, found none.")


def delimiter_of(line: str) -> str:
    """Return the delimiter of a table by its first line: tab or `|` where there is one, else `;` or a comma.

    Example:
        >>> delimiter_of("file_name;caption"), delimiter_of("a.jpg;a cat, a dog, a cow")
        (';', ';')
    """
    named_first = re.match(rf'"?[^{_DELIMITERS}]*\.\w{{3,4}}"?\s*([{_DELIMITERS}])', line)
    if named_first:  # no header: what follows the first file name
        return named_first.group(1)
    return next((mark for mark in "\t|" if mark in line), max(";,", key=lambda mark: (line.count(mark), mark == ",")))


def _no_text(path: Path, position: int) -> ValueError:
    return ValueError(f"{path} is not text: byte {position + 1} is NUL. Unpack it, or save it as UTF-8 without NUL.")


def _decodes(path: Path, encoding: str) -> bool:
    decoder, before = codecs.getincrementaldecoder(encoding)(), 0
    with path.open("rb") as file:
        try:
            while block := file.read(_BLOCK):
                if b"\0" in block:
                    raise _no_text(path, before + block.index(0))
                decoder.decode(block)
                before += len(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _unquoted(field: str) -> str:
    """Take the quotes off that stand behind a space, where `csv` does not see them."""
    quoted = _LATE_QUOTES.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _again(first: str, file: TextIO) -> Iterator[str]:
    yield first
    yield from file


def _records(lines: Iterator[str], mark: str, path: Path, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, fields) of every record that is not blank."""
    reader, started = csv.reader(lines, delimiter=mark, strict=True), 0
    while True:
        started = reader.line_num + skipped + 1
        try:
            row = next(reader, None)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} cannot be decoded: {error}. Save it as UTF-8.") from error
        except csv.Error as error:
            raise ValueError(
                f"Line {started} of {path}: a quote is not closed where the field ends ({error}). Close it, or double "
                "the quotes that are part of the text."
            ) from error
        if row is None:
            return
        if any(field.strip() for field in row):
            yield started, row


def _no_number(_: str) -> None:
    """Read NaN and infinity, which JSON does not have, as missing."""


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}). Found {text.strip()[:80]!r}.") from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f'{where}: expected one JSON object like {{"file_name": "a.jpg", ...}}, found {row!r}.')
    return row


__all__ = [
    "DELIMITED",
    "delimiter_of",
    "encoding_of",
    "json_rows",
    "open_text",
    "read_text",
    "table_rows",
    "text_lines",
]
