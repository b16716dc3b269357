"""Rows of csv, tsv, jsonl and parquet files as Arrow columns under this library's own names.

Rules that hold for every format, so that the same rows give the same samples whatever the file:

- text is UTF-8; a file or value that is not, a lone surrogate and a NUL byte are refused with their row;
- surrounding white space of every value is dropped, the rest is kept as it is; an empty value is no value;
- integers are taken for text in every column but captions (a label 3 is the label "3");
- columns that this library does not know are ignored.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from embedstore.errors import SourceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from embedstore.sources.reading.parquet_bytes import ParquetBytes

COLUMNS = ("image", "caption", "captions", "label", "split", "language", "role", "category", "id")
MOST_BYTES = 1 << 24
"""Of one text. Long descriptions pass; a stray quote or a missing line end that swallows a file does not."""

TEXT = pa.large_string()
TEXTS = pa.large_list(TEXT)

Needed: TypeAlias = "Sequence[tuple[str, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a file says. `columns` holds `large_string` arrays, `captions` a list of them per row.

    `encoded` is set where the image column holds the pictures themselves; `image` then names them.
    `place(row)` says where row `row` stands, e.g. "captions.csv, line 12".
    """

    count: int
    columns: Mapping[str, Any]
    place: Callable[[int], str]
    encoded: ParquetBytes | None = None

    def text(self, name: str) -> Any:
        """One column, or a column of nulls where the file has none."""
        return self.columns[name] if name in self.columns else pa.nulls(self.count, TEXT)

    def __contains__(self, name: str) -> bool:
        return name in self.columns


def refuse_unknown_columns(columns: Iterable[str], known: Iterable[str]) -> None:
    """`UnknownNameError` where one of `columns`, our names, is not among `known`."""
    known = tuple(known)
    for ours in columns:
        if ours not in known:
            near = difflib.get_close_matches(ours, known, n=1)
            raise UnknownNameError(
                f"unknown column {ours!r}",
                allowed=", ".join(known),
                todo=f"did you mean {near[0]!r}?" if near else None,
            )


def looked_for(columns: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the name looked for in the file; `columns` maps by hand, an empty name means "not read".

    Where only one of `caption` and `captions` is mapped, the other is not read. Raises `UnknownNameError`.
    """
    refuse_unknown_columns(columns, COLUMNS)
    names = {name: columns.get(name, name) for name in COLUMNS}
    for one, other in (("caption", "captions"), ("captions", "caption")):
        if columns.get(one) and other not in columns:
            names[other] = ""
    return {ours: theirs for ours, theirs in names.items() if theirs}


def chosen_columns(
    found: Iterable[str], columns: Mapping[str, str], needed: Needed, where: str
) -> dict[str, str]:
    """Our name -> the file's column name, for every column that is there and is to be read.

    `needed` lists groups of which at least one must be there. Raises `SourceError` naming the columns found.
    """
    found = list(found)
    listed = ", ".join(found) or "no columns"
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise SourceError("a column name stands twice", where=where, found=", ".join(twice))
    names = looked_for(columns)
    missing = sorted(theirs for ours, theirs in names.items() if ours in columns and theirs not in found)
    if missing:
        raise SourceError(f"no column {missing[0]!r}", where=where, found=listed)
    chosen = {ours: theirs for ours, theirs in names.items() if theirs in found}
    if "caption" in chosen and "captions" in chosen:
        raise SourceError(
            "both a column for 'caption' and one for 'captions'",
            where=where,
            found=listed,
            todo="say which one is not read: --column captions= or --column caption=",
        )
    for group in needed:
        if not any(name in chosen for name in group):
            raise SourceError(
                f"no column {' or '.join(group)}",
                where=where,
                found=listed,
                todo=f"name the column to take: --column {group[0]}={found[-1] if found else 'TITLE'}",
            )
    return chosen
