"""What a verb chooses from: subsets, files of ids or stores of `A+B`, with what is known of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.documents import SubsetParent
from embedstore.errors import UsageError
from embedstore.store import Store, choose_rows, layout, open_store, tables
from embedstore.store.choosing import choose_part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.documents import Setting, Table
    from embedstore.shapes import IntArray

KNOWN = ("reason", "concept", "rank", "score", "twin", "parent")
MOST = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """Rows `(n,)` int64 of one table, ascending, and `known`: the columns of a subset for each of them."""

    name: str
    table: Table
    rows: IntArray
    known: pa.Table
    sha256: str
    parent: SubsetParent | None


def opened(store: Store | str | PathLike[str]) -> Store:
    """The store itself, or the one at a place."""
    return store if isinstance(store, Store) else open_store(store)


def operand(store: Store, named: str) -> Operand:
    """A subset (which may be empty), else a store of `A+B` by its folder's name, else a file of ids.

    `UsageError` where it is none of these.
    """
    if named not in store.subsets():
        found = choose_part(store, named)
        whole = any(found.sha256 == part.fingerprint for part in store.parts)
        parent = SubsetParent(kind="store", name=found.name, sha256=found.sha256) if whole else None
        return Operand(
            name=found.name,
            table=found.table,
            rows=found.rows,
            known=_nothing_known(len(found.rows)),
            sha256=found.sha256,
            parent=parent,
        )
    subset = store.subset(named)
    content = subset.read()
    digest = choose_rows(store, named).sha256 if len(subset) else subset.card.fingerprint
    return Operand(
        name=named,
        table=subset.table,
        rows=content["row"].to_numpy(),
        known=content.select(KNOWN),
        sha256=digest,
        parent=SubsetParent(kind="subset", name=named, sha256=digest),
    )


def operands(store: Store, names: Sequence[str]) -> list[Operand]:
    """All of one table; `UsageError` otherwise, and for a name that comes twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("the same operand twice", found=", ".join(twice))
    if len(names) > MOST:
        raise UsageError("too many operands", found=len(names), allowed=f"{MOST} at most")
    found = [operand(store, name) for name in names]
    if len({each.table for each in found}) > 1:
        raise UsageError(
            "rows of images and of texts do not go together",
            found=", ".join(f"{each.name}: {each.table}" for each in found),
            allowed="operands of one table",
        )
    return found


def parents(some: Sequence[Operand]) -> tuple[SubsetParent, ...]:
    """Those operands that are subsets or stores."""
    return tuple(each.parent for each in some if each.parent is not None)


def told(some: Sequence[Operand]) -> dict[str, Setting | tuple[Setting, ...]]:
    """The operands as settings of a card, in their order."""
    return {"of": tuple(each.name for each in some), "of_sha256": tuple(each.sha256 for each in some)}


def within(store: Store, rows: str | None, table: Table) -> IntArray | None:
    """The rows of a table that `--rows` leaves, ascending; none: all of them.

    Of chosen images their texts, of chosen texts their images.
    """
    if rows is None:
        return None
    chosen = choose_rows(store, rows)
    if chosen.table == table:
        return chosen.rows
    if table == "images":
        return chosen.images(store)
    owners = store.texts(["image"])["image"].fill_null(-1).to_numpy()
    found: IntArray = np.flatnonzero(np.isin(owners, chosen.rows))
    return found


def narrowed(rows: IntArray, allowed: IntArray | None) -> IntArray:
    """Those of the ascending rows that are allowed."""
    return rows if allowed is None else np.intersect1d(rows, allowed, assume_unique=True)


def refuse_taken(store: Store, name: str, *, overwrite: bool) -> None:
    """Before the work: `UsageError` for a name that is taken, `StoreError` for one that cannot be."""
    layout.subset(store.parts[0].path, name)
    if not overwrite and name in layout.subset_names(store.parts[0].path):
        raise UsageError(
            f"there is a subset {name!r} already", todo="choose another name, or replace it with --overwrite"
        )


def refuse_empty(rows: IntArray, what: str) -> None:
    """`UsageError` where nothing would be in the subset: nothing that reads one takes an empty one."""
    if not len(rows):
        raise UsageError("nothing is left: the subset would be empty", found=what)


def own_columns(one: Operand, rows: IntArray) -> dict[str, Any]:
    """The columns of some of an operand's own rows; it is their parent where they have no other."""
    kept = one.known.take(np.searchsorted(one.rows, rows))
    columns = {name: kept[name] for name in KNOWN}
    return {"row": rows, **columns, "parent": columns["parent"].fill_null(one.name)}


def merged_columns(some: Sequence[Operand], rows: IntArray) -> dict[str, Any]:
    """The columns of rows of the operands, each row's from the first operand that knows why it is there.

    So a score is never beside a concept that it is not of. `parent` names every operand that has the row,
    joined by `+`. Each row must be in one of them.
    """
    inside = [np.isin(one.rows, rows, assume_unique=True) for one in some]
    every = np.concatenate([one.rows[keep] for one, keep in zip(some, inside, strict=True)])
    number = np.repeat(np.arange(len(some)), [int(keep.sum()) for keep in inside])
    known = pa.concat_tables([one.known.filter(keep) for one, keep in zip(some, inside, strict=True)])
    informed = reduce(np.logical_or, [_valid(known[name]) for name in KNOWN[:4]])
    order = np.lexsort((number, ~informed, every))
    first = order[np.flatnonzero(np.diff(every[order], prepend=-1))]
    taken = known.take(first)
    masks = np.bitwise_or.reduceat(
        (np.int64(1) << number)[order], np.flatnonzero(np.diff(every[order], prepend=-1))
    )
    kinds, which = np.unique(masks, return_inverse=True)
    names = pa.array(["+".join(one.name for k, one in enumerate(some) if mask >> k & 1) for mask in kinds])
    return {"row": rows, **{name: taken[name] for name in KNOWN}, "parent": names.take(pa.array(which))}


def _valid(column: pa.ChunkedArray[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    found: np.ndarray[Any, np.dtype[np.bool_]] = column.is_valid().to_numpy()
    return found


def _nothing_known(count: int) -> pa.Table:
    return pa.table({name: pa.nulls(count, tables.SUBSET.field(name).type) for name in KNOWN})
