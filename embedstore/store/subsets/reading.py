"""Named rows of a store with the reasons why they are there: read, checked, never copied.

A subset's row numbers are those of the store that it was made of; in any other store, its rows are looked up
by their ids. In `A+B` a subset that lies in a part is of that part's rows, and those of one name in several
parts are read as one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
import pyarrow as pa

from embedstore.documents import SubsetCard, read_bounded
from embedstore.errors import CorruptStoreError, MismatchError, StoreError, UsageError
from embedstore.store import layout, tables
from embedstore.store.create import refuse_newer
from embedstore.store.ids import places_of, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store.reader import Store

_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """What one store keeps of a subset. `first` is added to its row numbers; none: they mean nothing here."""

    store: Path
    card: SubsetCard
    first: int | None


class Subset:
    """Rows of one table of a store, under a name. Cheap to make; reads only what is asked for.

    Everything is in row order, and row numbers are those of the store that it was asked of. Reading raises
    `CorruptStoreError` where a file is not the one that the card tells of, and `UsageError` where an id is
    not in the store.
    """

    def __init__(self, name: str, store: Store, pieces: Sequence[Piece]) -> None:
        self.name, self.store, self._pieces = name, store, tuple(pieces)

    def __repr__(self) -> str:
        return f"Subset({self.name!r}, {len(self)} {self.table}, {self.card.verb})"

    def __len__(self) -> int:
        return sum(card.kept for card in self.cards)

    @property
    def cards(self) -> tuple[SubsetCard, ...]:
        """How it came to be: one card, or of `A+B` one of each part that has a subset of the name."""
        return tuple(piece.card for piece in self._pieces)

    @property
    def card(self) -> SubsetCard:
        """The card of the first part."""
        return self._pieces[0].card

    @property
    def table(self) -> Table:
        """Whose rows they are: images or texts."""
        return self.card.table

    @property
    def dropped_count(self) -> int:
        """Rows that are told of because they were left out."""
        return sum(card.dropped for card in self.cards)

    @cached_property
    def rows(self) -> IntArray:
        """Row numbers `(n,)` int64, ascending."""
        found: IntArray = self.read(["row"])["row"].to_numpy()
        found.flags.writeable = False
        return found

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The rows with what is known of each: row, id, reason, concept, rank, score, twin, parent."""
        return self._read(layout.SUBSET_ROWS, columns)

    def read_dropped(self, columns: list[str] | None = None) -> pa.Table:
        """The same of rows that were left out; `twin` is the id of the row that stands for each."""
        return self._read(layout.SUBSET_DROPPED, columns)

    def _read(self, file: str, columns: list[str] | None) -> pa.Table:
        wanted = columns or tables.SUBSET.names
        return pa.concat_tables([self._of_piece(p, file, wanted) for p in self._pieces])

    def _of_piece(self, piece: Piece, file: str, columns: list[str]) -> pa.Table:
        if file == layout.SUBSET_DROPPED and piece.card.dropped_file is None:
            return tables.SUBSET.empty_table().select(columns)
        table = read_file(piece.store, piece.card, file, [*dict.fromkeys(["row", *columns])])
        place = table.schema.get_field_index("row")
        if piece.first is not None:
            rows = table["row"].to_numpy() + piece.first
            self._refuse_outside(rows)
        else:
            rows = self._by_id(piece, file)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(rows, pa.int64()))
        if (np.diff(rows) < 0).any():
            table = table.take(np.argsort(rows, kind="stable"))
        return table.select(columns)

    def _refuse_outside(self, rows: IntArray) -> None:
        plan = self.store.plan
        most = plan.images if self.table == "images" else plan.texts
        if len(rows) and not 0 <= rows[0] <= rows[-1] < most:
            raise CorruptStoreError(
                "the subset has rows outside the table",
                where=f"{layout.SUBSETS}/{self.name}",
                found=f"{rows[0]} to {rows[-1]}",
                allowed=f"0 to {most - 1}",
            )

    def _by_id(self, piece: Piece, file: str) -> IntArray:
        """Rows of a subset that was made of another store, or of several."""
        store = self.store
        ids = read_file(piece.store, piece.card, file, ["id"])["id"].to_pylist()
        column = (store.images if self.table == "images" else store.texts)(["id"])["id"]
        rows = places_of(column, ids)
        unknown = [ids[i] for i in np.flatnonzero(rows < 0)[:6]]
        if unknown:
            several = len(piece.card.stores) > 1
            raise UsageError(
                f"the subset {self.name!r} is of other rows: {int((rows < 0).sum())} of {len(ids)} ids are "
                "not in this store",
                where=store.place,
                found=shown(unknown),
                todo=f"open the {len(piece.card.stores)} stores that it was made of as one: A+B"
                if several
                else "make the subset again from this store",
            )
        return rows


def read_card(store: Path, name: str) -> SubsetCard:
    """The card of a subset that is there; `CorruptStoreError`, `FormatVersionError`."""
    where = f"{layout.SUBSETS}/{name}/{layout.SUBSET_CARD}"
    path = layout.subset(store, name) / layout.SUBSET_CARD
    text = read_bounded(layout.inside(store, path), CorruptStoreError)
    refuse_newer(text, where=where)
    card = SubsetCard.from_json(text, where=where, error=CorruptStoreError)
    if card.name != name:
        raise CorruptStoreError("the card is of another subset", where=where, found=card.name)
    return card


def read_file(store: Path, card: SubsetCard, file: str, columns: list[str]) -> pa.Table:
    """One Parquet file of a subset, which must be the one that the card tells of, its rows ascending."""
    path = layout.inside(store, layout.subset(store, card.name) / file)
    where = f"{layout.SUBSETS}/{card.name}/{file}"
    said = card.rows_file if file == layout.SUBSET_ROWS else card.dropped_file
    count = card.kept if file == layout.SUBSET_ROWS else card.dropped
    if said is None or checksum(path, where) != (said.nbytes, said.crc32c):
        raise CorruptStoreError(
            "the file is not the one that the subset's card tells of",
            where=where,
            todo="make the subset again, with --overwrite",
        )
    found = tables.read_file(path, "subset", columns)
    rows = found["row"].to_numpy() if "row" in columns else np.empty(0, np.int64)
    if len(found) != count or (np.diff(rows) <= 0).any() or (len(rows) and rows[0] < 0):
        raise CorruptStoreError(
            "the rows are not as many as the card says, or not ascending",
            where=where,
            found=len(found),
            allowed=count,
        )
    return found


def checksum(path: Path, where: str) -> tuple[int, int]:
    """Bytes of a file and their crc32c; `CorruptStoreError` where it cannot be read."""
    found, nbytes = google_crc32c.Checksum(), 0
    try:
        with path.open("rb") as source:
            while data := source.read(_READ_BYTES):
                found.update(data)
                nbytes += len(data)
    except OSError as bad:
        raise CorruptStoreError(f"cannot be read: {bad.strerror}", where=where) from None
    return nbytes, int.from_bytes(found.digest(), "big")


def subset_names(store: Store) -> tuple[str, ...]:
    """Names of the subsets in any part of a store, sorted."""
    return tuple(sorted({name for part in store.parts for name in layout.subset_names(part.path)}))


def open_subset(store: Store, name: str) -> Subset:
    """A subset of a store or of `A+B`.

    Raises `StoreError` for an unknown name, `MismatchError` where parts of `A+B` have subsets of this name
    that cannot be read as one.
    """
    owners = [part for part in store.parts if name in layout.subset_names(part.path)]
    if not owners:
        names = subset_names(store)
        near = difflib.get_close_matches(name, names, n=1)
        raise StoreError(
            f"no subset {name!r}",
            where=store.place,
            allowed=", ".join(names) or "none yet",
            todo=f"did you mean {near[0]!r}?" if near else None,
        )
    cards = [read_card(part.path, name) for part in owners]
    pieces = [Piece(p.path, card, _first_row(store, p, card)) for p, card in zip(owners, cards, strict=True)]
    strange = any(c.store_fingerprint != p.fingerprint for p, c in zip(owners, cards, strict=True))
    if len(owners) > 1 and (strange or len({card.table for card in cards}) > 1):
        raise MismatchError(
            f"the subsets {name!r} of these stores cannot be read as one",
            where=" and ".join(p.place for p in owners),
            found=", ".join(f"{c.kept} {c.table} of store {c.store_fingerprint[:12]}" for c in cards),
            todo="make one of them again under another name",
        )
    return Subset(name, store, pieces)


def _first_row(store: Store, owner: Store, card: SubsetCard) -> int | None:
    """What is added to the row numbers of a card that lies in one part; none where they are of other rows."""
    if card.store_fingerprint == store.fingerprint:
        return 0
    if card.store_fingerprint != owner.fingerprint:
        return None
    before = store.parts[: store.parts.index(owner)]
    return sum(p.plan.images if card.table == "images" else p.plan.texts for p in before)
