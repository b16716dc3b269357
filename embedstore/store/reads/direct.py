"""Pieces of chunks that need no test: copied out of memory where they are there, else read to their places.

Neighbours in the file share a vector read; the checksums between chunks fall into scratch.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store import files, shard
from embedstore.store.reads.pieces import offsets, opened, run_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.reads.chunks import OpenShard, ShardedArray
    from embedstore.store.reads.pieces import Pieces, Task

MAPPED_BYTES = 256 << 10
_NEAR_BYTES = 256 << 10
_TASK_BYTES = 1 << 20
_SCRATCH = [memoryview(bytearray(shard.MOST_GAP))[:n] for n in range(shard.MOST_GAP + 1)]


def direct_tasks(array: ShardedArray, pieces: Pieces, out: AnyArray) -> list[Task]:
    """Pieces of tested chunks: copied where their shard is in memory, else brought by vector reads."""
    number, held = opened(array, pieces.chunk)
    begin = offsets(array, pieces.chunk, number, held) + pieces.first * array.place_bytes
    maps, mapped = _mapped(held, number, begin, begin + pieces.places * array.place_bytes)
    tasks: list[Task] = []
    if mapped.any():
        some = pieces[mapped]
        copies = _Copies(array, held, maps, number[mapped], begin[mapped], pieces=some, out=out)
        tasks += [partial(copies.run, low, high) for low, high in copies.shares]
    if not mapped.all():
        apart = slice(None) if not mapped.any() else ~mapped
        reads = _DirectReads(array, held, number[apart], begin[apart], pieces[apart], out=out)
        tasks += [partial(reads.run, low, high) for low, high in reads.shares]
    return tasks


def _mapped(
    held: Mapping[int, OpenShard], number: IntArray, begin: IntArray, end: IntArray
) -> tuple[dict[int, ByteArray], AnyArray]:
    """Shards that are mapped, and which pieces, from byte `begin` to `end`, are in memory there; bool.

    Asked of neighbours together; to ask, and to touch pages for the first time, does not pay for few bytes.
    """
    gap = begin[1:] - end[:-1]
    apart = (gap < 0) | (gap > _NEAR_BYTES) | (number[1:] != number[:-1])
    bounds = run_bounds(apart, np.zeros_like(begin), 1)
    first, last = bounds[:-1], bounds[1:] - 1
    large = end[last] - begin[first] >= MAPPED_BYTES
    maps: dict[int, ByteArray] = {}
    found = np.zeros(len(first), bool)
    for r in np.flatnonzero(large).tolist():
        i, n = int(first[r]), int(number[first[r]])
        view = held[n].mapped(int(begin[i]), int(end[last[r]]))
        if view is not None:
            maps[n], found[r] = view, True
    return maps, np.repeat(found, np.diff(bounds))


def _shares(nbytes: IntArray) -> list[tuple[int, int]]:
    """Slices of some 1 MB each of pieces of these sizes."""
    ends = np.cumsum(nbytes)
    cuts = np.searchsorted(ends, np.arange(_TASK_BYTES, int(ends[-1]), _TASK_BYTES)) + 1
    return list(pairwise(np.unique([0, *cuts.tolist(), len(ends)]).tolist()))


class _Copies:
    """Copies from shards that are in memory, mapped."""

    def __init__(
        self,
        array: ShardedArray,
        held: Mapping[int, OpenShard],
        maps: Mapping[int, ByteArray],
        number: IntArray,
        begin: IntArray,
        *,
        pieces: Pieces,
        out: AnyArray,
    ) -> None:
        size, low = pieces.places * array.place_bytes, pieces.target * array.place_bytes
        self.shares = _shares(size)
        self._array, self._held, self._chunk = array, held, pieces.chunk
        self._maps, self._number, self._out = maps, number.tolist(), shard.as_bytes(out)
        self._ranges = [a.tolist() for a in (low, low + size, begin, begin + size)]

    def run(self, first: int, stop: int) -> None:
        """Make some of the copies."""
        some = slice(first, stop)
        # They were planned a while ago, and a file that was cut since would end the process.
        for n in set(self._number[some]):
            if not self._held[n].is_whole():
                place = first + self._number[some].index(n)
                raise self._array.corrupt("the shard is cut short", int(self._chunk[place]))
        out, maps = self._out, self._maps
        for n, low, high, a, b in zip(self._number[some], *(r[some] for r in self._ranges), strict=True):
            out[low:high] = maps[n][a:b]


class _DirectReads:
    """Vector reads into the output, worked out for all pieces together."""

    def __init__(
        self,
        array: ShardedArray,
        held: Mapping[int, OpenShard],
        number: IntArray,
        begin: IntArray,
        pieces: Pieces,
        *,
        out: AnyArray,
    ) -> None:
        place = array.place_bytes
        self._array, self._chunk, self._held = array, pieces.chunk, held
        size, low = pieces.places * place, pieces.target * place
        gap = begin[1:] - (begin + size)[:-1]
        apart = (gap < 0) | (gap > shard.MOST_GAP) | (number[1:] != number[:-1])
        # A checksum's scratch is one more buffer of the read.
        runs = run_bounds(apart, np.arange(len(begin)), files.MOST_PIECES // 2)
        last = runs[1:] - 1
        wanted = begin[last] + size[last] - begin[runs[:-1]]
        self.shares = _shares(wanted)
        self._runs, self._wanted, self._begin = runs.tolist(), wanted.tolist(), begin[runs[:-1]].tolist()
        self._shard = number[runs[:-1]].tolist()
        self._low, self._high, self._gap = low.tolist(), (low + size).tolist(), gap.tolist()
        self._view = memoryview(shard.as_bytes(out))  # type: ignore[arg-type]  # arrays are buffers

    def run(self, first: int, stop: int) -> None:
        """Do some of the reads."""
        runs, low, high, gap, view, held = (
            self._runs,
            self._low,
            self._high,
            self._gap,
            self._view,
            self._held,
        )
        for r in range(first, stop):
            i, end = runs[r], runs[r + 1]
            buffers = [view[low[i] : high[i]]]
            for k in range(i + 1, end):
                if gap[k - 1]:
                    buffers.append(_SCRATCH[gap[k - 1]])
                buffers.append(view[low[k] : high[k]])
            handle, offset = held[self._shard[r]].handle, self._begin[r]
            if os.preadv(handle, buffers, offset) != self._wanted[r] and not files.read_run(
                handle, buffers, offset
            ):
                raise self._array.corrupt("the shard is cut short", int(self._chunk[i]))
