"""Which rows a verb of `curate` chooses from, and what the card tells of where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import SubsetParent
from embedstore.errors import UsageError
from embedstore.store.selection import split_rows

if TYPE_CHECKING:
    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store
    from embedstore.store.choosing import ChosenRows


def meant_rows(store: Store, table: Table, *, split: str | None, chosen: ChosenRows | None) -> IntArray:
    """Rows of a table, ascending, in a split and among the chosen ones; of chosen images all texts.

    `UsageError` where texts are chosen and images are asked for, and where no row is left.
    """
    if table == "images":
        if chosen is not None and chosen.table != "images":
            raise UsageError(f"{chosen.name!r} chooses texts", where="--rows", allowed="rows of images")
        rows = split_rows(store, split)
        if chosen is not None:
            rows = np.intersect1d(rows, chosen.rows, assume_unique=True)
    else:
        wanted = np.zeros(store.plan.texts, dtype=bool)
        wanted[:] = True
        if split is not None or (chosen is not None and chosen.table == "images"):
            images = np.zeros(store.plan.images + 1, dtype=bool)
            images[split_rows(store, split)] = True
            if chosen is not None:
                images[np.setdiff1d(np.arange(store.plan.images), chosen.images(store))] = False
            # A text without an image takes the last place, which is in no split.
            wanted = images[store.texts(["image"])["image"].fill_null(store.plan.images).to_numpy()]
        own = None if chosen is None else chosen.texts(store)
        rows = np.flatnonzero(wanted if own is None else wanted & own)
    if not len(rows):
        raise UsageError(
            f"no {table} to choose from",
            where=store.place,
            found=f"split {split or 'all'}, {'all rows' if chosen is None else f'rows {chosen.name}'}",
        )
    return rows


def feature_parent(feature: Feature) -> SubsetParent:
    """The feature whose embeddings decided."""
    return SubsetParent(kind="feature", name=feature.name, sha256=feature.manifest.fingerprint)


def subset_parent(store: Store, chosen: ChosenRows | None) -> tuple[SubsetParent, ...]:
    """The subset that was chosen from; a file of ids is told of in the settings alone."""
    if chosen is None or chosen.name not in store.subsets():
        return ()
    return (SubsetParent(kind="subset", name=chosen.name, sha256=chosen.sha256),)
