"""From ids to rows: vectorised look-ups in the id column of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embedstore.shapes import IntArray

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


def shown(ids: list[str]) -> str:
    """The first few ids for a message."""
    return ", ".join(repr(i) for i in ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
