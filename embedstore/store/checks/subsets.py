"""Whether every subset of a store is what its card says, and its rows are the rows of its ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from embedstore.errors import StoreError
from embedstore.store import layout
from embedstore.store.checks.report import Finding
from embedstore.store.ids import ids_at
from embedstore.store.subsets.reading import read_card, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.documents import SubsetCard
    from embedstore.store.reader import Store


def check_subsets(store: Store) -> Iterator[Finding]:
    """Every disagreement inside one store; of rows in other stores only the files are checked."""
    for name in store.subsets():
        where = f"{layout.SUBSETS}/{name}"
        try:
            card = read_card(store.path, name)
            yield from _finding(where, _problem(store, card))
        except StoreError as bad:
            yield from _finding(where, f"{bad.problem}; make it again")
    for name in layout.unfinished_subsets(store.path):
        yield Finding(
            kind="incomplete",
            where=f"{layout.SUBSETS}/{name}",
            problem="a subset without a card: make it again, or remove the folder",
        )


def _finding(where: str, problem: str | None) -> Iterator[Finding]:
    if problem is not None:
        yield Finding(kind="corrupt", where=where, problem=problem)


def _problem(store: Store, card: SubsetCard) -> str | None:
    """What is wrong with the rows of a subset, in words."""
    said = [(layout.SUBSET_ROWS, card.rows_file), (layout.SUBSET_DROPPED, card.dropped_file)]
    most = store.plan.images if card.table == "images" else store.plan.texts
    for file, there in said:
        if there is None:
            continue
        lines = read_file(store.path, card, file, ["row", "id"])
        rows = lines["row"].to_numpy()
        if card.store_fingerprint != store.fingerprint or not len(rows):
            continue
        if rows[-1] >= most:
            return f"{file}: row {rows[-1]} is outside the table {card.table!r}"
        differ = pc.not_equal(ids_at(store, card.table, rows), lines["id"].combine_chunks())
        if pc.any(differ).as_py():
            at = int(np.flatnonzero(np.asarray(differ))[0])
            return f"{file}: row {rows[at]} has not the id {lines['id'][at].as_py()!r}"
    return None
