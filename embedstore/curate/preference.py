"""Which of several rows that stand for each other is kept: an order of all rows, the best first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import pyarrow.compute as pc

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.documents import Table
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store

Prefer: TypeAlias = Literal["first", "size", "score"]
PREFER: tuple[Prefer, ...] = get_args(Prefer)


def preference(
    store: Store, table: Table, rows: IntArray, prefer: str, *, scores: str | None = None
) -> IntArray:
    """Places in `rows (n,)`, ascending row numbers, in falling preference `(n,)` int64.

    `first`: by row. `size`: by the bytes of the picture's file, of texts by their characters. `score`: by the
    score in the subset `scores`. What is unknown comes last; equals come by row. `UsageError`.
    """
    if prefer not in PREFER:
        raise UsageError("unknown preference", where="--prefer", found=prefer, allowed=", ".join(PREFER))
    if prefer != "score" and scores is not None:
        raise UsageError("scores are read for --prefer score alone", where="--scores", found=scores)
    if prefer == "first":
        return np.arange(len(rows), dtype=np.int64)
    values = _sizes(store, table)[rows] if prefer == "size" else _scores(store, table, rows, scores)
    order: IntArray = np.argsort(-values, kind="stable")
    return order


def _sizes(store: Store, table: Table) -> FloatArray:
    if table == "texts":
        lengths: FloatArray = pc.utf8_length(store.texts(["text"])["text"]).to_numpy().astype(np.float64)
        return lengths
    sizes = store.images(["nbytes"])["nbytes"]
    if store.plan.images and sizes.null_count == len(sizes):
        raise UsageError(
            "the store does not know the size of any picture", where="--prefer", allowed="first, score"
        )
    known: FloatArray = sizes.fill_null(-1).to_numpy().astype(np.float64)
    return known


def _scores(store: Store, table: Table, rows: IntArray, name: str | None) -> FloatArray:
    if name is None or name not in store.subsets():
        raise UsageError(
            "which scores are meant?" if name is None else f"no subset {name!r}",
            where="--scores",
            allowed=", ".join(store.subsets()) or "the store has no subset yet",
            todo="name a subset whose rows have scores: --scores SUBSET",
        )
    subset = store.subset(name)
    lines = subset.read(["row", "score"])
    if subset.table != table or lines["score"].null_count == len(lines):
        raise UsageError(
            f"the subset {name!r} has no scores of {table}",
            where="--scores",
            found=f"{len(lines)} {subset.table}, {len(lines) - lines['score'].null_count} with a score",
        )
    found = np.full(int(rows.max(initial=-1)) + 1, -np.inf)
    scored = lines["row"].to_numpy()
    inside = scored < len(found)
    found[scored[inside]] = lines["score"].fill_null(-np.inf).to_numpy()[inside]
    chosen: FloatArray = found[rows]
    return chosen
