"""Whether the concept prototypes of a store are what their cards say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import StoreError
from embedstore.store import layout
from embedstore.store.checks.report import Finding
from embedstore.store.prototypes import read_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.store.reader import Store

# Of the length of a float32 vector that was normalised.
_ROUNDING = 1e-3


def check_prototypes(store: Store) -> Iterator[Finding]:
    """Prototypes whose vectors are not the card's, of another shape or not of length 1; unfinished ones."""
    for name in layout.prototype_names(store.path):
        problem = _problem(store, name)
        if problem is not None:
            yield Finding(
                kind="corrupt", where=f"{layout.PROTOTYPES}/{name}", problem=f"{problem}; make them again"
            )
    for name in layout.unfinished_prototypes(store.path):
        yield Finding(
            kind="incomplete",
            where=f"{layout.PROTOTYPES}/{name}",
            problem="prototypes without a card: make them again, or remove the folder",
        )


def _problem(store: Store, name: str) -> str | None:
    try:
        card, vectors = read_folder(layout.inside(store.path, layout.prototypes(store.path, name)))
    except StoreError as bad:
        return bad.problem
    if card.name != name:
        return f"the card is of {card.name!r}"
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) <= _ROUNDING).all():
        return "a vector has not the length 1"
    return None
