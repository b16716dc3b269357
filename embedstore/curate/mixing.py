"""The verb `mix`: one subset out of several, in stated shares and of a stated size."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.curate.algebra import drawn, rows_told
from embedstore.curate.operands import (
    KNOWN,
    narrowed,
    opened,
    operands,
    own_columns,
    parents,
    refuse_empty,
    told,
    within,
)
from embedstore.errors import UsageError
from embedstore.store import create_subset
from embedstore.store.ids import ids_at, shown
from embedstore.store.mix import mix_counts, share_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from embedstore.curate.operands import Operand
    from embedstore.shapes import IntArray
    from embedstore.store import Store, Subset


def mix_rows(
    store: Store | str | PathLike[str],
    shares: Mapping[str, float],
    *,
    name: str,
    size: int | None = None,
    seed: int = 0,
    rows: str | None = None,
    overwrite: bool = False,
) -> Subset:
    """`size` rows of several parts in these shares, each part's drawn at random; `parent` names the part.

    Parts are subsets, files of ids or, in `A+B`, stores by their folder's name, without common rows; shares
    are any numbers above 0. Without a size, as many rows as the shares allow: the part that runs out first is
    taken whole. Draws are those of `sample_rows`: a smaller mix of the same shares lies in a larger one, but
    for one row a part where numbers are rounded. Each row keeps what its part knows of it. `UsageError` for
    parts with common rows, and where a part has fewer rows than its share of the size.
    """
    here, named = opened(store), dict(sorted(shares.items()))
    if len(named) < 2 or not all(0 < share < np.inf for share in named.values()):
        raise UsageError(
            "not the parts of a mix", found=dict(shares), allowed="two parts at least, with shares above 0"
        )
    parts = operands(here, list(named))
    table = parts[0].table
    allowed = within(here, rows, table)
    pools = [narrowed(part.rows, allowed) for part in parts]
    for part, pool in zip(parts, pools, strict=True):
        refuse_empty(pool, f"part {part.name}")
    _refuse_shared(here, parts, pools)
    exact = [Fraction(str(share)) for share in named.values()]
    counts = _counts(parts, pools, exact, size)
    taken = [drawn(pool, count, seed) for pool, count in zip(pools, counts, strict=True)]
    return create_subset(
        here,
        name,
        _columns(parts, taken),
        table=table,
        verb="mix",
        settings=told(parts)
        | {
            "shares": tuple(named.values()),
            "size": size,
            "seed": seed,
            "rows": None if rows is None else rows_told(here, rows),
        },
        parents=parents(parts),
        counts={f"of_{k + 1}": count for k, count in enumerate(counts)},
        overwrite=overwrite,
    )


def _counts(
    parts: Sequence[Operand], pools: Sequence[IntArray], shares: Sequence[Fraction], size: int | None
) -> tuple[int, ...]:
    sizes = [len(pool) for pool in pools]
    most = mix_counts(sizes, shares)
    counts = most if size is None else share_counts(max(size, 0), shares)
    short = [k for k, (count, there) in enumerate(zip(counts, sizes, strict=True)) if count > there]
    if short:
        k = short[0]
        raise UsageError(
            f"{parts[k].name!r} has too few rows for its share of {size}",
            where="--size",
            found=f"{sizes[k]} rows, {counts[k]} wanted",
            allowed=f"{sum(most)} at most in these shares",
            todo="a row stands in a subset once; ask for fewer, or for other shares",
        )
    if not all(counts):
        raise UsageError(
            f"nothing would be taken of {parts[counts.index(0)].name!r}",
            where="--size",
            found=sum(counts),
            todo="ask for more rows, or for other shares",
        )
    return counts


def _refuse_shared(store: Store, parts: Sequence[Operand], pools: Sequence[IntArray]) -> None:
    for later in range(1, len(parts)):
        for earlier in range(later):
            both = np.intersect1d(pools[earlier], pools[later], assume_unique=True)
            if len(both):
                a, b = parts[earlier].name, parts[later].name
                raise UsageError(
                    f"{len(both)} rows are in two parts of the mix",
                    where=f"{a} and {b}",
                    found=shown(ids_at(store, parts[0].table, both[:6]).to_pylist()),
                    todo=f"take them out of one: embedstore curate subtract STORE {a} {b} --name NAME",
                )


def _columns(parts: Sequence[Operand], taken: Sequence[IntArray]) -> dict[str, Any]:
    known = [own_columns(part, rows) for part, rows in zip(parts, taken, strict=True)]
    columns: dict[str, Any] = {
        name: pa.chunked_array([chunk for own in known for chunk in own[name].chunks], known[0][name].type)
        for name in KNOWN
        if name != "parent"
    }
    names = np.repeat([part.name for part in parts], [len(rows) for rows in taken])
    return {"row": np.concatenate(taken), **columns, "parent": names}
