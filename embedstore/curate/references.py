"""Test sets that rows are compared with: other stores, or a split or subset of the same store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.curate.meant import meant_rows, subset_parent
from embedstore.curate.vectors import refuse_other_card, unit_vectors
from embedstore.documents import SubsetParent
from embedstore.errors import UsageError
from embedstore.store import open_store
from embedstore.store.choosing import choose_rows

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.curate.vectors import UnitVectors
    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A test set by name (never a path): rows `(n,)` of a store, ascending, and their feature."""

    name: str
    store: Store
    feature: Feature
    rows: IntArray
    parents: tuple[SubsetParent, ...]

    def read(self, memory_mb: int) -> UnitVectors:
        """Its unit vectors; `UsageError` where no row has one."""
        found = unit_vectors(self.feature, self.rows, memory_mb=memory_mb)
        if not len(found.rows):
            raise UsageError("no row of the test set has an embedding", where=self.name, found=len(self.rows))
        return found


def same_store(store: Store, feature: Feature, name: str) -> Reference:
    """A subset or a split of the store; `UsageError` where it is neither, or both."""
    is_subset, is_split = name in store.subsets(), name in store.plan.splits
    if is_subset == is_split:
        raise UsageError(
            f"{name!r} is a subset and a split" if is_subset else f"no subset and no split {name!r}",
            where="--against",
            allowed=", ".join((*store.plan.splits, *store.subsets())) or "the store has none",
            todo="give the subset another name" if is_subset else None,
        )
    chosen = choose_rows(store, name) if is_subset else None
    rows = meant_rows(store, feature.table, split=name if is_split else None, chosen=chosen)
    return Reference(name=name, store=store, feature=feature, rows=rows, parents=subset_parent(store, chosen))


def other_store(
    store: Store, feature: Feature, place: str | PathLike[str], *, split: str | None, rows: str | None
) -> Reference:
    """Rows of another store by the feature of the same name, else the first one with the same card.

    `MismatchError` where no card is the same, `UsageError` for the store itself.
    """
    theirs = open_store(place)
    known = {part.fingerprint for part in store.parts}
    if known & {part.fingerprint for part in theirs.parts}:
        raise UsageError(
            "a store is not its own test set",
            where=theirs.place,
            todo="name a split or a subset of it: --against NAME",
        )
    chosen = None if rows is None else choose_rows(theirs, rows)
    name = "+".join(part.place.replace("\\", "/").rstrip("/").rpartition("/")[2] for part in theirs.parts)
    return Reference(
        name=name + "".join(f"@{each}" for each in (split, chosen and chosen.name) if each is not None),
        store=theirs,
        feature=_same_card(theirs, feature),
        rows=meant_rows(theirs, feature.table, split=split, chosen=chosen),
        parents=(
            SubsetParent(kind="store", name=name[:200], sha256=theirs.fingerprint),
            *subset_parent(theirs, chosen),
        ),
    )


def _same_card(theirs: Store, feature: Feature) -> Feature:
    names = sorted(theirs.features(), key=lambda each: (each != feature.name, each))
    for each in names:
        header = theirs.header(each)
        same = not feature.card.differences(header.card)
        if same and header.table == feature.table and header.array("pooled") and theirs.complete(each):
            return theirs[each]
    if feature.name in names:
        refuse_other_card(feature, theirs[feature.name], where=f"{feature.name} of {theirs.place}")
    raise UsageError(
        f"no feature has the card of {feature.name!r}",
        where=theirs.place,
        found=", ".join(names) or "none",
        todo="encode the store with the same encoder, or apply the same head",
    )
