"""The order in which a training epoch reads rows: a pure function of sizes, seed, epoch, rank and world.

Block order cuts the rows into blocks of neighbours, which one read brings, shuffles the blocks, and
shuffles the rows inside groups of many blocks: nearly as mixed as a full shuffle, at the price of a scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.shapes import IntArray

Shuffle: TypeAlias = Literal["blocks", "full", "none"]

BLOCK_BYTES = 1536 << 10
GROUP_BYTES = 192 << 20


def block_rows(row_bytes: int) -> int:
    """Rows of one block: about 1.5 MB, at least one row."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def group_rows(row_bytes: int) -> int:
    """Rows of one group: about 200 MB, some 128 blocks."""
    return max(1, GROUP_BYTES // max(1, row_bytes))


def epoch_order(
    rows: int | IntArray,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    block_rows: int = 64,
    group_rows: int = 8192,
    shuffle: Shuffle = "blocks",
) -> IntArray:
    """The rows that one rank reads in one epoch `(m,)` int64, in order.

    `rows`: a number of rows, or the chosen rows ascending (a split, a subset): blocks are then cut from
    these. Over all ranks every row comes exactly once; counts differ by at most one. `shuffle`: "blocks"
    as above, "full" any row anywhere, "none" the given order. Raises `UsageError`.
    """
    if not 0 <= rank < world:
        raise UsageError("bad rank", found=f"{rank} of {world}", allowed="0 to world - 1")
    if block_rows < 1 or group_rows < 1:
        raise UsageError("blocks and groups have at least one row", found=(block_rows, group_rows))
    given = np.asarray(rows, dtype=np.int64)
    chosen = given if given.ndim else np.arange(int(given), dtype=np.int64)
    count = len(chosen)
    drawn = drawn_places(count, block_rows, shuffle, generator(seed, epoch))
    mine = drawn[rank_share(count, rank, world)]
    if shuffle == "blocks":
        mine = mixed_groups(mine, _even(len(mine), group_rows), generator(seed, epoch, 1, rank))
    return chosen[mine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A part of an epoch that has been read: `world` ranks took `steps` batches of at most `batch` rows."""

    world: int
    batch: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """What one rank reads: `rows (m,)` in order, cut by `batches (s + 1,)`; `groups` are cuts among these.

    Batch i is `rows[batches[i]:batches[i + 1]]`; group j is batches `groups[j]` to `groups[j + 1] - 1`, whose
    rows lie together in blocks. Batches differ by at most one row, and every rank has as many.
    """

    rows: IntArray
    batches: IntArray
    groups: IntArray

    @property
    def steps(self) -> int:
        """Batches of this rank."""
        return len(self.batches) - 1

    def after(self, steps: int) -> EpochPlan:
        """The same order without its first batches, so many of them."""
        first = self.batches[min(steps, self.steps)]
        groups = np.unique(np.maximum(self.groups - steps, 0))
        return EpochPlan(
            rows=self.rows[first:], batches=self.batches[min(steps, self.steps) :] - first, groups=groups
        )


def epoch_plan(
    rows: IntArray,
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
    """What is left of an epoch for one rank, after the parts in `done`, each possibly on another world.

    `rows`: the chosen rows, ascending. Each batch has `batch` rows at most and, while a rank has them,
    `least` rows at least (then one batch may have more than `batch`). Blocks begin at multiples of `align`
    rows. Every row comes exactly once, whatever the worlds; a pure function. Raises `UsageError`.
    """
    if not 0 <= rank < world:
        raise UsageError("bad rank", found=f"{rank} of {world}", allowed="0 to world - 1")
    if min(batch, least, block_rows, group_rows, align) < 1:
        raise UsageError("batches, blocks and groups have at least one row", found=(batch, block_rows))
    left = drawn_places(len(rows), block_rows, shuffle, generator(seed, epoch), align)

    def part(places: IntArray, rank: int, world: int, batch: int, phase: int) -> EpochPlan:
        mine = places[rank_share(len(places), rank, world)]
        batches = _batches(len(places), len(mine), world=world, batch=batch, least=least)
        steps = len(batches) - 1
        groups = group_cuts(steps, len(mine), group_rows)
        if shuffle == "blocks":
            stream = (1, rank, phase) if phase else (1, rank)
            mine = mixed_groups(mine, batches[groups], generator(seed, epoch, *stream))
        return EpochPlan(rows=mine, batches=batches, groups=groups)

    for phase, past in enumerate(done):
        taken = np.zeros(len(rows), dtype=bool)
        for other in range(past.world):
            found = part(left, other, past.world, past.batch, phase)
            taken[found.rows[: found.batches[min(past.steps, found.steps)]]] = True
        left = left[~taken[left]]
    mine = part(left, rank, world, batch, len(done))
    return EpochPlan(rows=rows[mine.rows], batches=mine.batches, groups=mine.groups)


def epoch_steps(total: int, *, world: int, batch: int, least: int = 1) -> int:
    """Batches of an epoch over `total` rows on every rank; see `epoch_plan`."""
    fewest, most = total // world, -(-total // world)
    return max(1, min(-(-most // batch), fewest // least)) if total else 0


def _batches(total: int, mine: int, *, world: int, batch: int, least: int) -> IntArray:
    """Where the batches of one rank begin and end; as many on every rank, sizes differ by at most one."""
    if not total:
        return np.zeros(1, np.int64)
    return even_cuts(mine, epoch_steps(total, world=world, batch=batch, least=least))


def even_cuts(count: int, parts: int) -> IntArray:
    """Where `parts` nearly equal parts of `count` begin and end `(parts + 1,)`, the longer ones first."""
    size, longer = divmod(count, parts)
    at = np.arange(parts + 1, dtype=np.int64)
    return at * size + np.minimum(at, longer)


def group_cuts(steps: int, rows: int, size: int) -> IntArray:
    """Which batches begin the groups of about `size` rows, and where they end."""
    count = min(steps, max(1, round(rows / size))) if steps else 0
    return even_cuts(steps, count) if count else np.zeros(1, np.int64)


def _even(count: int, size: int) -> IntArray:
    """Where groups of about `size` begin and end, all of nearly the same size."""
    groups = max(1, round(count / size))
    return np.arange(groups + 1, dtype=np.int64) * count // groups


def drawn_places(
    count: int, block: int, shuffle: Shuffle, random: np.random.Generator, align: int = 1
) -> IntArray:
    """All positions as the epoch draws them, before they are shared out and mixed."""
    if shuffle == "none":
        return np.arange(count, dtype=np.int64)
    if shuffle == "full":
        return random.permutation(count).astype(np.int64)
    if shuffle != "blocks":
        raise UsageError("unknown order", found=shuffle, allowed="blocks, full, none")
    return _drawn_blocks(count, block, align, random)


def generator(seed: int, epoch: int, *stream: int) -> np.random.Generator:
    """A counter-based generator: the same numbers whatever was drawn before, on every machine."""
    key = np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)
    counter = np.array([0] * (4 - len(stream)) + list(stream), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def rank_share(count: int, rank: int, world: int) -> slice:
    """A contiguous part for one rank, so that a block stays whole on one rank where it can."""
    return slice(count * rank // world, count * (rank + 1) // world)


def _drawn_blocks(count: int, size: int, align: int, random: np.random.Generator) -> IntArray:
    """All positions, block by block, the blocks in random order; where blocks begin is random too."""
    start = int(random.integers(-(-size // align))) * align
    blocks = -(-(count + start) // size)
    drawn = random.permutation(blocks).astype(np.int64)
    places = (drawn[:, None] * size + np.arange(size, dtype=np.int64)).reshape(-1) - start
    return places[(places >= 0) & (places < count)]


def mixed_groups(places: IntArray, bounds: IntArray, random: np.random.Generator) -> IntArray:
    """Shuffle inside the groups that `bounds` cut."""
    out = places.copy()
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        random.shuffle(out[low:high])
    return out
