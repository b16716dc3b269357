"""Stretches of places cut at chunk borders, and where the pieces lie in shards: all worked out together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.reads.chunks import OpenShard, ShardedArray

Task: TypeAlias = "Callable[[], None]"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches that lie in one chunk each: `places` from place `first` of `chunk` on, to place `target`."""

    chunk: IntArray
    first: IntArray
    places: IntArray
    target: IntArray

    def __getitem__(self, which: AnyArray | slice) -> Pieces:
        return Pieces(self.chunk[which], self.first[which], self.places[which], self.target[which])


def cut(starts: IntArray, lengths: IntArray | None, targets: IntArray, size: int) -> Pieces:
    """Ascending stretches by their places, none of them empty, cut at the borders of chunks of `size` places.

    Without `lengths` each is one place long. Pieces ascend too, also where stretches overlap.
    """
    chunk = starts // size
    if lengths is None:
        return Pieces(chunk, starts - chunk * size, np.ones_like(starts), targets)
    count = (starts + lengths - 1) // size - chunk + 1
    if (count == 1).all():
        return Pieces(chunk, starts - chunk * size, lengths, targets)
    of = np.repeat(np.arange(len(starts)), count)
    chunk = chunk[of] + np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    low = np.maximum(starts[of], chunk * size)
    high = np.minimum(starts[of] + lengths[of], (chunk + 1) * size)
    pieces = Pieces(chunk, low - chunk * size, high - low, targets[of] + low - starts[of])
    return pieces if (low[1:] >= low[:-1]).all() else pieces[np.argsort(low, kind="stable")]


def covered(pieces: Pieces, size: int) -> AnyArray:
    """Which pieces are of a chunk that they cover exactly, each place once; bool."""
    same = pieces.chunk[1:] == pieces.chunk[:-1]
    begins = np.flatnonzero(np.concatenate([np.ones(1, bool), ~same]))
    overlaps = same & (pieces.first[1:] < (pieces.first + pieces.places)[:-1])
    lapping = np.add.reduceat(np.concatenate([np.zeros(1, np.int64), overlaps]), begins)
    whole = (np.add.reduceat(pieces.places, begins) == size) & (lapping == 0)
    return np.repeat(whole, np.diff(np.append(begins, len(pieces.chunk))))


def opened(array: ShardedArray, chunk: IntArray) -> tuple[IntArray, dict[int, OpenShard]]:
    """The shard of every chunk, and these shards, open."""
    number = chunk // array.chunks_a_shard
    first = np.concatenate([np.ones(1, bool), number[1:] != number[:-1]])
    return number, {n: array.shard(n) for n in number[first].tolist()}


def offsets(
    array: ShardedArray, chunk: IntArray, number: IntArray, held: Mapping[int, OpenShard]
) -> IntArray:
    """Where ascending chunks begin in their shards; `CorruptStoreError` where one is missing."""
    local = chunk - number * array.chunks_a_shard
    found = np.empty_like(local)
    bounds = [0, *(np.flatnonzero(number[1:] != number[:-1]) + 1).tolist(), len(chunk)]
    for (low, high), one in zip(pairwise(bounds), held.values(), strict=True):
        found[low:high] = one.offsets[local[low:high]]
    if int(found.min()) < 0:
        raise array.corrupt("a chunk is missing", int(chunk[int(found.argmin())]))
    return found


def run_bounds(apart: AnyArray, values: IntArray, most: int) -> IntArray:
    """Bounds of runs `(r + 1,)`: one ends where the next is `apart`, or where its values grew by `most`."""
    begins = np.concatenate([np.ones(1, bool), apart])
    start = values[np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))]
    part = (values - start) // most
    begins[1:] |= part[1:] != part[:-1]
    return np.append(np.flatnonzero(begins), len(begins))
