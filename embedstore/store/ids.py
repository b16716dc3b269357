"""From ids to rows: vectorised look-ups in the id column of a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.errors import UsageError
from embedstore.store import layout, tables

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store.reader import Store

_SHOWN = 5


def places_of(column: pa.ChunkedArray[pa.StringScalar], ids: Iterable[str]) -> IntArray:
    """The row of each id `(n,)` int64 in the given order, -1 where the column does not hold it."""
    wanted = pa.array(list(ids), pa.string())
    found: IntArray = (
        pc.index_in(wanted, value_set=column.combine_chunks()).fill_null(-1).cast(pa.int64()).to_numpy()
    )
    return found


def rows_of_ids(column: pa.ChunkedArray[pa.StringScalar], ids: Iterable[str], *, where: str) -> IntArray:
    """The row of each id `(n,)` int64 in the given order, repeats allowed; `UsageError` names unknown ids."""
    wanted = [ids] if isinstance(ids, str) else list(ids)
    rows = places_of(column, wanted)
    unknown = [wanted[i] for i in (rows < 0).nonzero()[0][: _SHOWN + 1]]
    if unknown:
        count = int((rows < 0).sum())
        raise UsageError(
            "no such id" if count == 1 else f"{count} of {len(wanted)} ids are not there",
            where=where,
            found=shown(unknown),
            allowed=f"ids of the table, such as {column[0].as_py()!r}"
            if len(column)
            else "the table is empty",
        )
    return rows


def ids_at(store: Store, table: Table, rows: IntArray) -> pa.Array[pa.StringScalar]:
    """The ids of ascending rows `(n,)`; of a large table one part is in memory at a time."""
    found, first = [], 0
    for part in store.parts:
        for path in layout.parts(part.path, table):
            stop = first + pq.read_metadata(path).num_rows
            low, high = np.searchsorted(rows, (first, stop))
            if low < high:
                column = tables.read_file(path, table, ["id"])["id"]
                found += column.take(pa.array(rows[low:high] - first)).chunks
            first = stop
    return pa.concat_arrays(found) if found else pa.array([], pa.string())


def shown(ids: list[str]) -> str:
    """The first few ids for a message."""
    return ", ".join(repr(i) for i in ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")


def read_ids(path: str | PathLike[str]) -> list[str]:
    """Ids from a file: `.csv` and `.parquet` with a column `id`, any other is text with one id a line.

    Blank lines and repeats are left out. `UsageError` where the file cannot be read or has no such column.
    """
    place = Path(path)
    try:
        found = _FORMATS.get(place.suffix.lower(), _text)(place)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as bad:
        raise UsageError("ids cannot be read", where=place, found=str(bad)[:200]) from None
    if not found:
        raise UsageError("there is no id in the file", where=place)
    return list(dict.fromkeys(found))


def _text(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig") as lines:
        return [line.strip() for line in lines if line.strip()]


def _csv(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines)
        if "id" not in (table.fieldnames or ()):
            raise _no_column(path, list(table.fieldnames or ()))
        return [line["id"] for line in table if line["id"]]


def _parquet(path: Path) -> list[str]:
    names = pq.read_schema(path).names
    if "id" not in names:
        raise _no_column(path, names)
    column = pq.ParquetFile(path).read(columns=["id"])["id"]
    return [str(value) for value in column.drop_null().to_pylist()]


def _no_column(path: Path, names: list[str]) -> UsageError:
    return UsageError("no column 'id'", where=path, found=", ".join(names) or "an empty file")


_FORMATS = {".csv": _csv, ".parquet": _parquet}
