"""What `--rows` names: a subset of the store, or a file of ids; and which images and texts that leaves."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import RowsRecord
from embedstore.errors import UsageError
from embedstore.store.ids import places_of, read_ids, shown

if TYPE_CHECKING:
    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store.reader import Store
    from embedstore.store.selection import Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRows:
    """Rows `(n,)` int64 of one table, ascending. `sha256`: of the subset's cards, or of the ids."""

    name: str
    table: Table
    rows: IntArray
    sha256: str

    def images(self, store: Store) -> IntArray:
        """The chosen images, ascending; of chosen texts the images that they belong to."""
        if self.table == "images":
            return self.rows
        owners = np.unique(store.texts(["image"])["image"].fill_null(-1).to_numpy()[self.rows])
        return owners[owners >= 0]

    def texts(self, store: Store) -> Bools | None:
        """Which texts `(m,)` count; none: every text of the images."""
        if self.table == "images":
            return None
        found = np.zeros(store.plan.texts, dtype=bool)
        found[self.rows] = True
        return found

    def record(self, store: Store, share: float | None = None) -> RowsRecord:
        """What a document tells of the choice."""
        splits = store.images(["split"])["split"].take(self.images(store)).unique().to_pylist()
        return RowsRecord(
            name=self.name,
            table=self.table,
            rows=len(self.rows),
            sha256=self.sha256,
            splits=tuple(sorted(split for split in splits if split is not None)),
            share=share,
        )


def choose_rows(store: Store, named: str) -> ChosenRows:
    """The rows of the subset `named`, else those whose ids stand in a file of that name (see `read_ids`).

    `UsageError` where it is neither, for ids that are not there or that are of images and of texts, and where
    nothing is chosen.
    """
    if named in store.subsets():
        subset = store.subset(named)
        digest = hashlib.sha256("\n".join(c.fingerprint for c in subset.cards).encode())
        found = ChosenRows(name=named, table=subset.table, rows=subset.rows, sha256=digest.hexdigest())
    elif Path(named).is_file():
        found = _of_ids(store, Path(named))
    else:
        near = difflib.get_close_matches(named, store.subsets(), n=1)
        raise UsageError(
            f"no subset and no file of ids is named {named!r}",
            where=store.place,
            allowed=", ".join(store.subsets()) or "the store has no subset yet",
            todo=f"did you mean {near[0]!r}?" if near else None,
        )
    if not len(found.rows):
        raise UsageError("this chooses no row", where=store.place, found=named)
    return found


def choose_part(store: Store, named: str) -> ChosenRows:
    """As `choose_rows`; of `A+B` also all images of one of the stores, by the name of its folder."""
    parts = store.parts if named not in store.subsets() else ()
    ends = [part.place.replace("\\", "/").rstrip("/").rpartition("/")[2] for part in parts]
    if ends.count(named) != 1:
        return choose_rows(store, named)
    at = ends.index(named)
    first = sum(part.plan.images for part in parts[:at])
    rows = np.arange(first, first + parts[at].plan.images, dtype=np.int64)
    return ChosenRows(name=named, table="images", rows=rows, sha256=parts[at].fingerprint)


def _of_ids(store: Store, file: Path) -> ChosenRows:
    ids = read_ids(file)
    digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    images = places_of(store.images(["id"])["id"], ids)
    if (images >= 0).all():
        return ChosenRows(name=file.name, table="images", rows=np.sort(images), sha256=digest)
    texts = places_of(store.texts(["id"])["id"], ids)
    if (texts >= 0).all():
        return ChosenRows(name=file.name, table="texts", rows=np.sort(texts), sha256=digest)
    unknown = [ids[i] for i in np.flatnonzero((images < 0) & (texts < 0))[:6]]
    raise UsageError(
        "these ids are not all of images, nor all of texts" if not unknown else "ids are not in the store",
        where=file,
        found=shown(unknown)
        if unknown
        else f"{(images >= 0).sum()} of images, {(texts >= 0).sum()} of texts",
        allowed="ids of one table of the store",
    )
