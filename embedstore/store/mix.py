"""The order of an epoch that mixes sets of rows in stated shares, exact in the epoch and in every batch.

An epoch is as long as the part lasts that runs out first, so no row comes twice in it. A part that has more
rows than the epoch takes gives others in the next one: over the epochs its rows take turns, evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.order import (
    EpochPlan,
    Shuffle,
    drawn_places,
    epoch_steps,
    even_cuts,
    generator,
    group_cuts,
    mixed_groups,
    rank_share,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.shapes import IntArray
    from embedstore.store.order import Done

# Streams of random numbers beside those of `store.order`.
_TURNS, _PART, _CELLS, _PLACES, _GROUPS = 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class MixedRows:
    """Parts without common rows, each ascending `(n_i,)`, and the share of each in an epoch, above 0."""

    parts: tuple[IntArray, ...]
    shares: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        together = np.concatenate(self.parts) if self.parts else np.empty(0, np.int64)
        if not self.parts or len(self.parts) != len(self.shares) or min(self.shares) <= 0:
            raise UsageError(
                "a mix has parts, each with a share above 0", found=f"{len(self.parts)} and {self.shares}"
            )
        if (np.diff(np.sort(together, kind="stable")) == 0).any():
            raise UsageError("the parts of a mix have rows in common", allowed="each row in one part")

    @property
    def rows(self) -> IntArray:
        """The rows of all parts, ascending."""
        return np.sort(np.concatenate(self.parts), kind="stable")

    def within(self, rows: IntArray) -> MixedRows:
        """The same of these rows alone; `UsageError` where a part has none of them."""
        parts = tuple(np.intersect1d(part, rows, assume_unique=True) for part in self.parts)
        for number, part in enumerate(parts):
            if not len(part):
                raise UsageError(
                    f"nothing is left of part {number + 1} of {len(parts)} of the mix",
                    found=f"0 of {len(self.parts[number])} rows",
                    todo="look at the split, the role and the language, at what is quarantined and held out",
                )
        return MixedRows(parts, self.shares)

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows that an epoch takes of each part."""
        return mix_counts([len(part) for part in self.parts], self.shares)

    def plan(
        self,
        *,
        seed: int,
        epoch: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        least: int = 1,
        block_rows: int = 64,
        group_rows: int = 8192,
        align: int = 1,
        shuffle: Shuffle = "blocks",
        done: Sequence[Done] = (),
    ) -> EpochPlan:
        """What is left of an epoch for one rank; everything as in `store.order.epoch_plan`.

        Of each part a batch of m rows has m times the part's share of the epoch, rounded down or up; after
        the parts in `done`, of what is left. A pure function; the rows of an epoch do not depend on batch and
        world. Raises `UsageError`.
        """
        if not 0 <= rank < world:
            raise UsageError("bad rank", found=f"{rank} of {world}", allowed="0 to world - 1")
        if min(batch, least, block_rows, group_rows, align) < 1:
            raise UsageError("batches, blocks and groups have at least one row", found=(batch, block_rows))
        draw = _Draw(seed, epoch, block_rows, group_rows, align, least, shuffle)
        left = [self._epoch_rows(number, draw) for number in range(len(self.parts))]
        for phase, past in enumerate(done):
            plans = [draw.share(left, past.batch, r, past.world, phase) for r in range(past.world)]
            gone = [found.rows[: found.batches[min(past.steps, found.steps)]] for found in plans]
            left = [rows[~np.isin(rows, np.concatenate(gone))] for rows in left]
        return draw.share(left, batch, rank, world, len(done))

    def _epoch_rows(self, number: int, draw: _Draw) -> IntArray:
        """The rows of one part that an epoch takes, as it draws them."""
        rows, count = self.parts[number], self.counts[number]
        turns = draw.places(len(rows), draw.random(_TURNS, number, epoch=0))
        turn = np.zeros(len(rows), dtype=bool)
        turn[turns[(draw.epoch * count + np.arange(count, dtype=np.int64)) % len(rows)]] = True
        mine = np.flatnonzero(turn)
        return rows[mine[draw.places(count, draw.random(_PART, number))]]


def mix_counts(sizes: Sequence[int], shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Rows that an epoch takes of parts with so many rows: as many as can be had in these shares.

    Each is total times share, rounded down or up, and no more than the part has.
    """
    whole = sum(shares)
    total = int(min(size * whole / share for size, share in zip(sizes, shares, strict=True)))
    return share_counts(total, shares)


def share_counts(total: int, shares: Sequence[Fraction]) -> tuple[int, ...]:
    """A total in these shares: each is total times share, rounded down or up, and they add up to it."""
    whole = sum(shares)
    return tuple(_rounded([total * share / whole for share in shares], total))


def _rounded(wanted: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers with this sum, each rounded down or up; up where most is missing, else the earlier."""
    found = [int(value) for value in wanted]
    order = sorted(range(len(found)), key=lambda i: (found[i] - wanted[i], i))
    for i in order[: total - sum(found)]:
        found[i] += 1
    return found


@dataclass(frozen=True, slots=True)
class _Draw:
    """What the order of one epoch depends on besides the rows."""

    seed: int
    epoch: int
    block: int
    group: int
    align: int
    least: int
    shuffle: Shuffle

    def random(self, *stream: int, epoch: int | None = None) -> np.random.Generator:
        return generator(self.seed, self.epoch if epoch is None else epoch, *stream)

    def places(self, count: int, random: np.random.Generator) -> IntArray:
        return drawn_places(count, self.block, self.shuffle, random, self.align)

    def share(self, left: Sequence[IntArray], batch: int, rank: int, world: int, phase: int) -> EpochPlan:
        """The batches of one rank out of what is left of each part, in drawn order."""
        total = sum(map(len, left))
        if not total:
            nothing = np.zeros(1, np.int64)
            return EpochPlan(rows=nothing[:0], batches=nothing, groups=nothing)
        steps = epoch_steps(total, world=world, batch=batch, least=self.least)
        counts = [len(range(total)[rank_share(total, r, world)]) for r in range(world)]
        sizes = np.concatenate([np.diff(even_cuts(count, steps)) for count in counts])
        cells = _cells([len(rows) for rows in left], sizes, self.random(_CELLS, phase))
        cells = cells.reshape(world, steps, len(left))
        batches, groups = even_cuts(counts[rank], steps), group_cuts(steps, counts[rank], self.group)
        together = np.empty(counts[rank], np.int64)
        begin = batches[:-1].copy()
        for number, drawn in enumerate(left):
            of_ranks = _ends(cells[:, :, number].sum(axis=1))
            mine, ends = drawn[of_ranks[rank] : of_ranks[rank + 1]], _ends(cells[rank, :, number])
            if self.shuffle == "blocks":
                mine = mixed_groups(mine, ends[groups], self.random(_GROUPS + number, rank, phase))
            together[np.arange(len(mine)) + np.repeat(begin - ends[:-1], cells[rank, :, number])] = mine
            begin += cells[rank, :, number]
        if self.shuffle != "none":
            # Inside a batch the parts stand in no order, as whoever takes a part of it expects.
            together = mixed_groups(together, batches, self.random(_PLACES, rank, phase))
        return EpochPlan(rows=together, batches=batches, groups=groups)


def _ends(counts: IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _cells(totals: Sequence[int], sizes: IntArray, random: np.random.Generator) -> IntArray:
    """How many rows of each part every batch has `(n, k)`, for batches of two neighbouring `sizes (n,)`.

    Rows and columns have the sums that are given, and a cell is size times share, rounded down or up.
    """
    total, small = sum(totals), int(sizes.min())
    groups = [np.flatnonzero(sizes == small), np.flatnonzero(sizes == small + 1)]
    low, high = (
        [[n * (size * t // total) for t in totals], [n * -(-size * t // total) for t in totals]]
        for n, size in ((len(groups[0]), small), (len(groups[1]), small + 1))
    )
    of_small = _between(
        [max(a, t - b) for a, b, t in zip(low[0], high[1], totals, strict=True)],
        [min(a, t - b) for a, b, t in zip(low[1], high[0], totals, strict=True)],
        [Fraction(len(groups[0]) * small * t, total) for t in totals],
        len(groups[0]) * small,
    )
    cells = np.zeros((len(sizes), len(totals)), np.int64)
    for rows, size, sums in (
        (groups[0], small, of_small),
        (groups[1], small + 1, [t - s for t, s in zip(totals, of_small, strict=True)]),
    ):
        if len(rows):
            cells[random.permutation(rows)] = _equal_cells(sums, size, len(rows), totals)
    return cells


def _between(low: Sequence[int], high: Sequence[int], wanted: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers with this sum between bounds, near to what is wanted; there are some."""
    found = [min(max(int(w), a), b) for w, a, b in zip(wanted, low, high, strict=True)]
    while sum(found) != total:
        step = 1 if sum(found) < total else -1
        open_ = [i for i in range(len(found)) if low[i] <= found[i] + step <= high[i]]
        found[max(open_, key=lambda i: (step * (wanted[i] - found[i]), -i))] += step
    return found


def _equal_cells(sums: Sequence[int], size: int, count: int, totals: Sequence[int]) -> IntArray:
    """Cells of `count` batches of one size: rounded down, and one more in as many as the sums ask for.

    These go round the batches, part after part (McNaughton's wrap-around rule), so each has as many.
    """
    floors = np.array([size * t // sum(totals) for t in totals], dtype=np.int64)
    cells = np.tile(floors, (count, 1))
    at = 0
    for number, whole in enumerate(sums):
        more = whole - count * int(floors[number])
        cells[(at + np.arange(more)) % count, number] += 1
        at = (at + more) % count
    return cells
