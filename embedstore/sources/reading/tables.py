"""From a file's name to its rows, trimmed and checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at
from embedstore.sources.reading.parquet_rows import read_parquet
from embedstore.sources.reading.rows import MOST_BYTES, TEXT, Needed, Rows
from embedstore.sources.reading.text_rows import read_csv, read_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from embedstore.sources.reading.files import File

_READERS: dict[str, Callable[[File, Mapping[str, str], Needed], Rows]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read_rows(path: Path | File, columns: Mapping[str, str], needed: Needed) -> Rows:
    """Read a table by the ending of its name: .csv, .tsv, .jsonl or .parquet. Raises `SourceError`."""
    file = at(path)
    reader = _READERS.get(ending(file.name))
    if reader is None:
        raise SourceError("not a table of a known format", where=file.name, allowed=", ".join(_READERS))
    try:
        return clean_rows(reader(file, columns, needed))
    except OSError as bad:
        raise SourceError(f"cannot be read: {bad.strerror or bad}", where=file.name) from None


def ending(name: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def clean_rows(rows: Rows) -> Rows:
    """Every text trimmed, an empty one none; `SourceError` names the row of a NUL byte."""
    done: dict[str, Any] = {}
    for name, column in rows.columns.items():
        if name == "captions":
            done[name] = _clean_lists(column, rows.place)
            continue
        done[name] = _clean_text(column, name, rows.place)
    return replace(rows, columns=done)


def _clean_text(values: Any, name: str, place: Callable[[int], str]) -> Any:
    bad = pc.fill_null(pc.match_substring(values, "\0"), pa.scalar(value=False))
    if pc.any(bad).as_py():
        row = int(np.flatnonzero(bad.to_numpy(zero_copy_only=False))[0])
        raise SourceError(f"a NUL byte in column {name!r}", where=place(row))
    longest = pc.max(pc.binary_length(values)).as_py() or 0
    if longest > MOST_BYTES:
        row = int(np.flatnonzero(pc.greater(pc.fill_null(pc.binary_length(values), 0), MOST_BYTES))[0])
        raise SourceError(
            f"a text too long in column {name!r}",
            where=place(row),
            found=f"{longest} bytes",
            allowed=MOST_BYTES,
        )
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, pa.scalar("", TEXT)), pa.scalar(None, TEXT), trimmed)


def _clean_lists(lists: Any, place: Callable[[int], str]) -> Any:
    row_of = pc.list_parent_indices(lists).to_numpy()
    flat = _clean_text(lists.flatten(), "captions", lambda at: place(int(row_of[at])))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
