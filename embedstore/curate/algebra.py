"""The verbs `union`, `intersect`, `subtract` and `sample`: new subsets out of those that are there."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from math import ceil
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.curate.operands import (
    merged_columns,
    narrowed,
    opened,
    operand,
    operands,
    own_columns,
    parents,
    refuse_empty,
    told,
    within,
)
from embedstore.errors import UsageError
from embedstore.store import create_subset
from embedstore.stream.choice import counter_random

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.curate.operands import Operand
    from embedstore.shapes import IntArray
    from embedstore.store import Store, Subset

Operation: TypeAlias = Literal["union", "intersect", "subtract"]


def combine_subsets(
    store: Store | str | PathLike[str],
    operation: Operation,
    of: Sequence[str],
    *,
    name: str,
    rows: str | None = None,
    overwrite: bool = False,
) -> Subset:
    """The rows of any of the operands, of all of them, or of the first but none of the others.

    Operands are subsets, files of ids or, in `A+B`, stores by their folder's name; all of images or all of
    texts. Of a union and an intersection what is known of a row comes from the first operand that knows why
    it is there, and `parent` names all that have it. A difference keeps what the first knows, and tells of
    the rows that it took out. `rows` narrows the result. `UsageError` for fewer than two operands and where
    nothing is left.
    """
    if len(of) < 2:
        raise UsageError("two operands at least", where=f"curate {operation}", found=", ".join(of) or "none")
    here = opened(store)
    some = operands(here, of)
    table = some[0].table
    found = narrowed(_ROWS[operation]([one.rows for one in some]), within(here, rows, table))
    counts = {f"in_{k + 1}": len(one.rows) for k, one in enumerate(some)}
    refuse_empty(found, ", ".join(f"{one.name} {len(one.rows)}" for one in some))
    taken = _taken_out(some) if operation == "subtract" else None
    return create_subset(
        here,
        name,
        own_columns(some[0], found) if operation == "subtract" else merged_columns(some, found),
        table=table,
        dropped=taken,
        verb=operation,
        settings=told(some) | ({"rows": rows_told(here, rows)} if rows is not None else {}),
        parents=parents(some),
        counts=counts,
        overwrite=overwrite,
    )


def sample_rows(
    store: Store | str | PathLike[str],
    of: str,
    *,
    name: str,
    count: int | None = None,
    share: float | None = None,
    seed: int = 0,
    rows: str | None = None,
    overwrite: bool = False,
) -> Subset:
    """So many rows of a subset, by `count` or by `share` (rounded up), drawn at random.

    Each row's draw depends on the seed and its row number only, and the smallest are taken: of one seed a
    smaller sample lies in a larger one, and a sample of two operands' union is drawn alike. `of` is a subset,
    a file of ids or a store of `A+B`. `UsageError` where there are fewer rows than `count`.
    """
    if (count is None) == (share is None):
        raise UsageError("how many rows?", allowed="one of --count and --share")
    if share is not None and not 0 < share <= 1:
        raise UsageError("no share", where="--share", found=share, allowed="above 0, 1 at most")
    here = opened(store)
    one = operand(here, of)
    pool = narrowed(one.rows, within(here, rows, one.table))
    refuse_empty(pool, f"{one.name} {len(one.rows)}")
    wanted = ceil(Fraction(str(share)) * len(pool)) if share is not None else int(count or 0)
    if not 1 <= wanted <= len(pool):
        raise UsageError("not so many rows", where="--count", found=wanted, allowed=f"1 to {len(pool)}")
    return create_subset(
        here,
        name,
        own_columns(one, drawn(pool, wanted, seed)),
        table=one.table,
        verb="sample",
        settings=told([one])
        | {"seed": seed, "count": count, "share": share}
        | ({"rows": rows_told(here, rows)} if rows is not None else {}),
        parents=parents([one]),
        counts={"considered": len(pool)},
        overwrite=overwrite,
    )


def drawn(pool: IntArray, count: int, seed: int) -> IntArray:
    """`count` of the rows, ascending: those with the smallest draws, which depend on (seed, row) only."""
    order = np.lexsort((pool, counter_random(seed_bits(seed), 0, pool)))
    found: IntArray = np.sort(pool[order[:count]])
    return found


def seed_bits(seed: int) -> int:
    """Any whole number as 64 bits."""
    return seed & (2**64 - 1)


def rows_told(store: Store, rows: str) -> str:
    """What a card says of `--rows`: the name, never a path."""
    return operand(store, rows).name


def _taken_out(some: Sequence[Operand]) -> dict[str, object] | None:
    first, *others = some
    gone = np.zeros(len(first.rows), dtype=bool)
    why = np.zeros(len(first.rows), dtype=np.int64)
    for k, other in enumerate(others):
        here = np.isin(first.rows, other.rows, assume_unique=True)
        why[here & ~gone] = k
        gone |= here
    if not gone.any():
        return None
    columns = own_columns(first, first.rows[gone])
    return columns | {"reason": np.array([f"in {other.name}" for other in others])[why[gone]]}


def _difference(some: Sequence[IntArray]) -> IntArray:
    return reduce(lambda a, b: np.setdiff1d(a, b, assume_unique=True), some)


_ROWS = {
    "union": lambda some: reduce(np.union1d, some),
    "intersect": lambda some: reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), some),
    "subtract": _difference,
}
