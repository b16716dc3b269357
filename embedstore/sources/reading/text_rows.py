"""Csv, tsv and jsonl files, read in batches into Arrow; the line of a row is found again on demand."""

from __future__ import annotations

import csv
import json
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

import pyarrow as pa

from embedstore.errors import SourceError
from embedstore.sources.reading.files import open_text
from embedstore.sources.reading.rows import MOST_BYTES, TEXT, TEXTS, Needed, Rows, chosen_columns, looked_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embedstore.sources.reading.files import File

_BATCH = 65_536


def read_csv(file: File, columns: Mapping[str, str], needed: Needed) -> Rows:
    """Rows of a csv or tsv file with a header line; a list of captions is a JSON list in one field.

    Quotes must be balanced and every row as long as the header: a stray quote would otherwise swallow
    the rows up to the next one.
    """
    dialect: dict[str, Any] = {"delimiter": "\t" if file.name[-4:].lower() == ".tsv" else ",", "strict": True}

    def place(row: int) -> str:
        return f"{file.name}, line {_csv_line(file, dialect, row)}"

    chunks: dict[str, list[Any]] = {}
    count = 0
    try:
        records = _csv_records(file, dialect)
        _, header = next(records, (0, []))
        header = [name.strip() for name in header]
        chosen = chosen_columns(header, columns, needed, file.name)
        at = {ours: header.index(theirs) for ours, theirs in chosen.items()}
        chunks = {ours: [] for ours in at}
        while batch := list(islice(records, _BATCH)):
            _refuse_ragged(file, batch, len(header))
            fields = list(zip(*(fields for _, fields in batch), strict=True))
            for ours, column in at.items():
                chunks[ours].append(_csv_column(ours, fields[column], count, place))
            count += len(batch)
    except UnicodeDecodeError:
        raise _not_utf8(file) from None
    return Rows(count=count, columns=_joined(chunks), place=place)


def read_jsonl(file: File, columns: Mapping[str, str], needed: Needed) -> Rows:
    """Rows of a file with one JSON object a line; empty lines are skipped, absent keys are no value."""

    def place(row: int) -> str:
        line = next(islice((n for n, _ in _json_lines(file)), row, None))
        return f"{file.name}, line {line}"

    names = looked_for(columns)
    chunks: dict[str, list[Any]] = {ours: [] for ours in names}
    found: dict[str, None] = {}
    count = 0
    try:
        lines = _json_lines(file)
        while batch := list(islice(lines, _BATCH)):
            objects = [_object(file, n, line) for n, line in batch]
            for one in objects:
                found.update(dict.fromkeys(one))
            for ours, theirs in names.items():
                values = [one.get(theirs) for one in objects]
                chunks[ours].append(_json_column(ours, values, count, place))
            count += len(objects)
    except UnicodeDecodeError:
        raise _not_utf8(file) from None
    chosen = chosen_columns(found, columns, needed, file.name)
    return Rows(count=count, columns=_joined({ours: chunks[ours] for ours in chosen}), place=place)


def _joined(chunks: Mapping[str, list[Any]]) -> dict[str, Any]:
    kinds: dict[str, Any] = {name: TEXTS if name == "captions" else TEXT for name in chunks}
    return {name: pa.chunked_array(c, kinds[name]).combine_chunks() for name, c in chunks.items()}


def _not_utf8(file: File) -> SourceError:
    with file.open() as lines:
        line = next((number for number, text in enumerate(lines, 1) if not _decodes(text)), 1)
    return SourceError("not UTF-8", where=f"{file.name}, line {line}", todo="save the table as UTF-8")


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _csv_records(file: File, dialect: Mapping[str, Any]) -> Iterator[tuple[int, list[str]]]:
    # (first line, fields) of every record, the header included; a record may span lines.
    csv.field_size_limit(MOST_BYTES)
    with open_text(file, newline="") as text:
        reader = csv.reader(_lines(file, text), **dialect)
        first = 1
        try:
            for fields in reader:
                if fields:
                    yield first, fields
                first = reader.line_num + 1
        except csv.Error as bad:
            raise SourceError(f"not valid csv: {bad}", where=f"{file.name}, line {first}") from None


def _csv_line(file: File, dialect: Mapping[str, Any], row: int) -> int:
    return next(islice(_csv_records(file, dialect), row + 1, None))[0]


def _refuse_ragged(file: File, batch: list[tuple[int, list[str]]], width: int) -> None:
    for line, fields in batch:
        if len(fields) != width:
            raise SourceError(
                "a row of another length than the header",
                where=f"{file.name}, line {line}",
                found=f"{len(fields)} fields",
                allowed=width,
                todo="quote fields that hold a comma",
            )


def _csv_column(ours: str, values: Sequence[str], start: int, place: Callable[[int], str]) -> Any:
    if ours != "captions":
        return pa.array(values, TEXT)
    lists = []
    for at, text in enumerate(values):
        try:
            lists.append(json.loads(text) if text.strip() else None)
        except (ValueError, RecursionError):
            raise _not_a_list(text, place(start + at)) from None
    return _json_column(ours, lists, start, place)


def _json_lines(file: File) -> Iterator[tuple[int, str]]:
    with open_text(file, newline="\n") as text:
        for number, line in enumerate(_lines(file, text), 1):
            if line.strip():
                yield number, line


def _lines(file: File, text: TextIO) -> Iterator[str]:
    # A file without line ends is never read whole.
    number = 0
    while line := text.readline(MOST_BYTES + 1):
        number += 1
        if len(line) > MOST_BYTES:
            raise SourceError(
                "a line too long", where=f"{file.name}, line {number}", allowed=f"{MOST_BYTES} characters"
            )
        yield line


def _object(file: File, number: int, line: str) -> dict[str, Any]:
    try:
        one = json.loads(line)
    except (ValueError, RecursionError) as bad:
        raise SourceError(f"not valid JSON: {bad}", where=f"{file.name}, line {number}") from None
    if not isinstance(one, dict):
        raise SourceError("not a JSON object", where=f"{file.name}, line {number}", found=line.strip()[:80])
    return one


def _json_column(ours: str, values: list[Any], start: int, place: Callable[[int], str]) -> Any:
    if ours == "captions":
        # Arrow would take a text for a list of its letters, so every value is looked at.
        values = [_text_list(v, start + at, place) for at, v in enumerate(values)]
        return pa.array(values, TEXTS)
    try:
        return pa.array(values, TEXT)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        return pa.array([_text(ours, v, start + at, place) for at, v in enumerate(values)], TEXT)


def _text(ours: str, value: Any, row: int, place: Callable[[int], str]) -> str | None:
    if ours == "image" and isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, int) and not isinstance(value, bool) and ours != "caption":
        return str(value)
    if value is not None and not isinstance(value, str):
        raise SourceError(f"column {ours!r} is not text", where=place(row), found=str(value)[:80])
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise SourceError(f"a lone surrogate in column {ours!r}", where=place(row)) from None
    return value


def _text_list(value: Any, row: int, place: Callable[[int], str]) -> list[str | None] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise _not_a_list(value, place(row))
    return [_text("caption", one, row, place) for one in value]


def _not_a_list(value: object, where: str) -> SourceError:
    return SourceError(
        "column 'captions' is not a list of texts",
        where=where,
        found=str(value)[:80],
        allowed='e.g. ["a dog", "a dog runs"]; one text a row goes into a column caption',
    )
