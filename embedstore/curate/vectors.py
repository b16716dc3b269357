"""Pooled embeddings of a store as unit vectors, with a clear outcome for rows that have none."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import MismatchError, UsageError
from embedstore.store.selection import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.documents import Table
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store import Feature, Store

BLOCK = 8192
UNREADABLE = "could not be read"
ZERO = "the vector is zero"
NOT_FINITE = "the vector is not finite"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitVectors:
    """Unit vectors `(n, e)` float32 of `rows (n,)`, and the rows that have none, each with the reason."""

    rows: IntArray
    vectors: Float32Array
    unusable: dict[int, str]


def pooled_feature(store: Store, name: str | None, table: Table | None = None) -> Feature:
    """The feature of this name, or the only complete one with pooled embeddings of a table.

    Augmented views are taken only by name. `UsageError` where it is of the other table or has nothing pooled,
    and where several could be meant.
    """
    if name is not None:
        found = store[name]
        found.array("pooled")
        if table is not None and found.table != table:
            raise UsageError(
                f"{name!r} is a feature of {found.table}", where="--feature", allowed=f"one of {table}"
            )
        return found
    able = [
        each
        for each in store.features()
        if store.complete(each)
        and (header := store.header(each)).table == (table or "images")
        and header.card.view is None
        and header.array("pooled") is not None
    ]
    if len(able) != 1:
        raise UsageError(
            "several features have pooled embeddings" if able else "no feature has pooled embeddings",
            where=store.place,
            found=", ".join(able) or None,
            todo="choose one with --feature"
            if able
            else "embedstore encode makes them, or embedstore apply those of a head",
        )
    return store[able[0]]


def refuse_other_card(ours: Feature, theirs: Feature, *, where: str) -> None:
    """`MismatchError` that lists how two cards differ, whose vectors cannot be compared."""
    fields = ours.card.differences(theirs.card)
    if fields:
        raise MismatchError(
            "the embeddings are not of the same encoder or head",
            where=where,
            found="; ".join(f"{field}: {a!r} and {b!r}" for field, (a, b) in fields.items()),
            todo="compare features with equal cards",
        )


def unit(values: FloatArray) -> tuple[Float32Array, FloatArray]:
    """Unit vectors `(n, e)` float32 and the lengths `(n,)` float64; zero and not finite where there is none.

    Each row is summed alone, so that its vector does not depend on the block in which it was read.
    """
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(wide).max(axis=1, initial=0.0)
        scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
        wide /= scale[:, None]  # squares of tiny and of huge values stay in range
        lengths = np.sqrt(np.square(wide).sum(axis=1))
        wide /= np.where(lengths > 0, lengths, 1.0)[:, None]
        return wide.astype(np.float32), lengths * scale


def unit_blocks(
    feature: Feature, rows: IntArray, block: int = BLOCK
) -> Iterator[tuple[IntArray, Float32Array, dict[int, str]]]:
    """Usable rows in the given order, some at a time, their unit vectors, and why others are left out."""
    good = readable(feature)
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        bad = dict.fromkeys(part[~good[part]].tolist(), UNREADABLE)
        part = part[good[part]]
        vectors, lengths = unit(feature.decoded("pooled", part))
        zero, strange = lengths == 0, ~np.isfinite(lengths)
        bad |= dict.fromkeys(part[zero].tolist(), ZERO) | dict.fromkeys(part[strange].tolist(), NOT_FINITE)
        usable = ~(zero | strange)
        yield part[usable], vectors[usable], bad


def unit_vectors(
    feature: Feature,
    rows: IntArray,
    *,
    memory_mb: int = 4096,
    on_progress: Callable[[int, int], None] | None = None,
) -> UnitVectors:
    """All of them at once, as float32; above `memory_mb` in a temporary file that ends with the array."""
    width = feature.header.card.pooled_width
    shape = (len(rows), width)
    if len(rows) * width * 4 > memory_mb << 20:
        with tempfile.TemporaryFile() as scratch:
            vectors: Float32Array = np.memmap(scratch, np.float32, "w+", shape=shape)
    else:
        vectors = np.empty(shape, np.float32)
    numbers, done = np.empty(len(rows), np.int64), 0
    unusable: dict[int, str] = {}
    for at, (part, values, bad) in enumerate(unit_blocks(feature, rows)):
        vectors[done : done + len(part)], numbers[done : done + len(part)] = values, part
        done += len(part)
        unusable |= bad
        if on_progress is not None:
            on_progress(min(len(rows), (at + 1) * BLOCK), len(rows))
    return UnitVectors(rows=numbers[:done], vectors=vectors[:done], unusable=unusable)
