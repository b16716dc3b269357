"""Which rows of a store are meant by a split, a role and a language, and which of a feature can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.shapes import IntArray
    from embedstore.store.feature import Feature
    from embedstore.store.reader import Store

Bools: TypeAlias = npt.NDArray[np.bool_]


def split_rows(store: Store, split: str | None) -> IntArray:
    """Image rows of a split, ascending `(n,)` int64; every row for none.

    `UsageError` that lists the splits there are.
    """
    if split is None:
        return np.arange(store.plan.images, dtype=np.int64)
    if split not in store.plan.splits:
        raise UsageError(
            f"no split {split!r} in the store", where="--split", allowed=_counted(store.plan.splits)
        )
    found: IntArray = np.flatnonzero(equal(store.images(["split"])["split"], split))
    return found


def texts_with(store: Store, *, role: str, language: str) -> Bools:
    """Which texts `(m,)` have this role and language.

    `UsageError` that lists the roles and languages there are, where no text has both.
    """
    table = store.texts(["role", "language"])
    wanted: Bools = equal(table["role"], role) & equal(table["language"], language)
    if not wanted.any():
        raise UsageError(
            f"no text has the role {role!r} in the language {language!r}",
            allowed=f"roles {_counted(store.plan.roles)}; languages {_counted(store.plan.languages)}",
        )
    return wanted


def altered(store: Store, language: str) -> tuple[IntArray, IntArray]:
    """Text rows of the negatives in a language `(k,)`, and of the caption that each alters `(k,)`, int64.

    A negative alters the nearest text of role `caption` before it that has its image and language; where
    there is none, the nearest one of role `long`. Negatives without either are left out. `UsageError` where
    the store has no negatives in that language.
    """
    texts_with(store, role="negative", language=language)
    table = store.texts(["image", "language", "role"])
    image = table["image"].fill_null(-1).to_numpy()
    here = equal(table["language"], language)
    own = np.full(len(image), -1, dtype=np.int64)
    for role in ("long", "caption"):
        # The last row so far with this role; of another image it is none.
        last = np.maximum.accumulate(np.where(equal(table["role"], role) & here, np.arange(len(image)), -1))
        fits = (last >= 0) & (image[last] == image)
        own[fits] = last[fits]
    negatives = np.flatnonzero(equal(table["role"], "negative") & here & (own >= 0) & (image >= 0))
    return negatives, own[negatives]


def readable(feature: Feature) -> Bools:
    """Which rows `(n,)` of a feature hold something: not quarantined, and of texts those with a token."""
    good: Bools = feature.status() == 0
    return good & (feature.lengths() > 0) if "lengths" in feature.arrays else good


def equal(column: pa.ChunkedArray[Any], value: str) -> Bools:
    """Which values of a column of strings equal `value`; null equals nothing."""
    found: Bools = pc.fill_null(pc.equal(column, value), pa.scalar(value=False)).to_numpy()
    return found


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
