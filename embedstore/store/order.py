"""The order in which a training epoch reads rows: a pure function of sizes, seed, epoch, rank and world.

Block order cuts the rows into blocks of neighbours, which one read brings, shuffles the blocks, and
shuffles the rows inside groups of many blocks: nearly as mixed as a full shuffle, at the price of a scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
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
    if shuffle == "none":
        return chosen[_share(count, rank, world)]
    random = _generator(seed, epoch)
    if shuffle == "full":
        return chosen[random.permutation(count)[_share(count, rank, world)]]
    if shuffle != "blocks":
        raise UsageError("unknown order", found=shuffle, allowed="blocks, full, none")
    mine = _drawn_blocks(count, block_rows, random)[_share(count, rank, world)]
    return chosen[_mixed(mine, group_rows, seed=seed, epoch=epoch, rank=rank)]


def _generator(seed: int, epoch: int, *stream: int) -> np.random.Generator:
    """A counter-based generator: the same numbers whatever was drawn before, on every machine."""
    key = np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)
    counter = np.array([0] * (4 - len(stream)) + list(stream), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _share(count: int, rank: int, world: int) -> slice:
    """A contiguous part for one rank, so that a block stays whole on one rank where it can."""
    return slice(count * rank // world, count * (rank + 1) // world)


def _drawn_blocks(count: int, size: int, random: np.random.Generator) -> IntArray:
    """All positions, block by block, the blocks in random order; where blocks begin is random too."""
    start = int(random.integers(size))
    blocks = -(-(count + start) // size)
    drawn = random.permutation(blocks).astype(np.int64)
    places = (drawn[:, None] * size + np.arange(size, dtype=np.int64)).reshape(-1) - start
    return places[(places >= 0) & (places < count)]


def _mixed(places: IntArray, size: int, *, seed: int, epoch: int, rank: int) -> IntArray:
    """Shuffle inside groups of about `size` rows, all of nearly the same size."""
    random = _generator(seed, epoch, 1, rank)
    out = places.copy()
    groups = max(1, round(len(places) / size))
    for group in range(groups):
        random.shuffle(out[len(places) * group // groups : len(places) * (group + 1) // groups])
    return out
