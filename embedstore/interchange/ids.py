"""Which row of a file is which sample: ids, and what else a file tells about a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from embedstore.errors import MismatchError, SourceError
from embedstore.interchange.tables import open_tables
from embedstore.sources.reading.tables import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.shapes import IntArray

FACTS = ("caption", "label", "split", "language", "picture")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_ARROW = (".arrow", ".feather", ".ipc")
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """`ids` of every row, text without nulls, and those columns of `FACTS` that are known."""

    ids: pa.Array
    columns: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, mask: pa.Array) -> RowFacts:
        """The rows where `mask` is true."""
        return RowFacts(
            ids=self.ids.filter(mask), columns={k: v.filter(mask) for k, v in self.columns.items()}
        )


def row_facts(ids: Any, columns: Mapping[str, Any], *, where: str) -> RowFacts:
    """Check ids: text or whole numbers, none of them null, empty, twice or an absolute path."""
    known = as_text(ids, where)
    empty = pc.fill_null(pc.equal(known, ""), pa.scalar(value=True))
    if pc.any(empty).as_py():
        raise SourceError("rows without an id", where=where, found=_examples(known, empty, rows=True))
    counts = pc.value_counts(known)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        raise SourceError(
            "ids stand for several rows",
            where=where,
            found=f"{len(twice)} such ids: {_first(twice)}",
            todo="give every row its own id",
        )
    return RowFacts(ids=known, columns={k: _no_empty(as_text(v, where)) for k, v in columns.items()})


def _no_empty(column: pa.Array) -> pa.Array:
    """An empty text is no text."""
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def without_prefix(facts: RowFacts, prefix: str | None, *, where: str) -> RowFacts:
    """Cut `prefix` from every id; absolute paths are refused, they name one machine only."""
    if prefix:
        other = pc.invert(pc.starts_with(facts.ids, prefix))
        if pc.any(other).as_py():
            raise SourceError(
                f"ids do not begin with {prefix!r}", where=where, found=_examples(facts.ids, other)
            )
        facts = replace(facts, ids=pc.utf8_slice_codeunits(facts.ids, len(prefix)))
        empty = pc.equal(facts.ids, "")
        if pc.any(empty).as_py():
            raise SourceError("an id is nothing but the prefix", where=where, found=repr(prefix))
    absolute = pc.match_substring_regex(facts.ids, r"^(/|[A-Za-z]:[\\/])")
    if pc.any(absolute).as_py():
        raise SourceError(
            "ids are absolute paths",
            where=where,
            found=_examples(facts.ids, absolute),
            todo="cut the folder away with --id-prefix FOLDER/, or choose another column: --column id=NAME",
        )
    return facts


def as_text(values: Any, where: str) -> pa.Array:
    """Any list, array or Arrow column of texts or whole numbers as an Arrow array of texts."""
    if hasattr(values, "numpy"):
        values = values.numpy()
    try:
        column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
        if not (pt.is_integer(kind) or pt.is_null(kind) or _is_text(kind)):
            raise SourceError("ids must be texts or whole numbers", where=where, found=kind)
        return column.cast(pa.string())
    except (pa.ArrowException, TypeError, ValueError) as bad:
        raise SourceError("not a column of texts", where=where, found=str(bad)[:200]) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind)
    )


def read_list(path: Path, columns: Mapping[str, str]) -> RowFacts:
    """An id list: one id a line (`.txt`), or the columns of a csv, tsv, jsonl, Parquet or Arrow file.

    `columns` maps our names (`id` and `FACTS`) to the file's.
    """
    ending = path.suffix.lower()
    if ending in _ARROW:
        return table_facts(open_tables(path, "arrow"), columns)
    if ending in _TABLES:
        # Other words than these may be columns of the file too, with a meaning that they have in a source.
        mapped = {"captions": "", **columns, "image": columns.get("picture", "")}
        for ours in ("picture", "embedding"):
            mapped.pop(ours, None)
        rows = read_rows(path, mapped, (("id",),))
        known = {"picture" if k == "image" else k: v for k, v in rows.columns.items()}
        return row_facts(known["id"], {k: v for k, v in known.items() if k in FACTS}, where=path.name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as bad:
        raise SourceError(f"an id list that cannot be read: {bad}", where=path.name) from None
    ended = lines[:-1] if lines[-1] == "" else lines
    return row_facts([line.removesuffix("\r") for line in ended], {}, where=path.name)


def table_facts(files: Any, columns: Mapping[str, str], *, ids: tuple[str, ...] = ("id",)) -> RowFacts:
    """Ids and facts of Arrow or Parquet files; the first of `ids` that is a column is the id."""
    names = files.schema.names
    wanted = columns.get("id")
    chosen = wanted or next((name for name in ids if name in names), None)
    for theirs in [chosen, *columns.values()]:
        if theirs not in names:
            raise SourceError(
                f"no column {theirs or 'id'!r}",
                where=files.name,
                found=", ".join(names),
                todo="name the column to take: --column id=NAME",
            )
    facts = {ours: columns.get(ours, ours) for ours in FACTS if columns.get(ours, ours) in names}
    table = files.read(list(dict.fromkeys([str(chosen), *facts.values()])))
    return row_facts(table[chosen], {ours: table[theirs] for ours, theirs in facts.items()}, where=files.name)


def match(wanted: pa.ChunkedArray, found: RowFacts, *, where: str, store: str) -> IntArray:
    """For every id of the store, in its order, the row of the file `(n,)`.

    `MismatchError` with counts and first examples where an id is missing from the file or unknown to the
    store.
    """
    places = pc.index_in(wanted, value_set=found.ids)
    missing = pc.is_null(places)
    unknown = pc.invert(pc.is_in(found.ids, value_set=wanted.combine_chunks()))
    problems = [
        f"{count} {what}: {_examples(ids, mask)}"
        for ids, mask, what in (
            (wanted.combine_chunks(), missing, "ids of the store are missing from the file"),
            (found.ids, unknown, "ids of the file are unknown to the store"),
        )
        if (count := pc.sum(mask).as_py() or 0)
    ]
    if problems:
        raise MismatchError(
            "the ids of the file are not those of the store",
            where=f"{where} and {store}",
            found="; ".join(problems),
            allowed=f"the {len(wanted)} ids of the store, each once, in any order",
            todo="import into a store of its own, or select the rows of the file first",
        )
    rows: IntArray = places.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    return rows


def _examples(ids: Any, mask: Any, *, rows: bool = False) -> str:
    if isinstance(mask, pa.ChunkedArray):
        mask = mask.combine_chunks()
    at = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    if rows:
        return f"{len(at)} of them, the first is row {at[0]}"
    return _first(ids.take(pa.array(at[:_SHOWN])))


def _first(ids: Any) -> str:
    return ", ".join(repr(i) for i in ids[:_SHOWN].to_pylist())
