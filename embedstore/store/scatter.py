"""Many stretches of one array at once: as few vector reads as possible, straight to where they belong.

Stretches are cut at chunk borders into pieces, and everything about them is worked out for all pieces
together, so that a reading thread has nothing left to do but slice a buffer and ask the kernel. Neighbours in
the file share a read; the checksums between chunks fall into scratch. A chunk that is still to be tested is
tested where its pieces land, if it is wanted whole; other such chunks, and rows too small for a buffer of
their own, are read beside the output and copied.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import google_crc32c
import numpy as np

from embedstore.store import files, handles, shard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.chunks import OpenShard, ShardedArray

Task: TypeAlias = "Callable[[], None]"

_VECTOR_BYTES = 4 << 10
_TASK_BYTES = 1 << 20
_SPAN_BYTES = 2 << 20
_PAGE_BYTES = 4096
# Tasks hold their shards open, and a stream reads some arrays at once.
_OPEN_SHARE = 4
_SHARDS_A_TASK = 8
_SCRATCH = [memoryview(bytearray(shard.MOST_GAP))[:n] for n in range(shard.MOST_GAP + 1)]
_rooms = threading.local()


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


def scatter_tasks(
    array: ShardedArray,
    starts: IntArray,
    lengths: IntArray | None,
    targets: IntArray,
    out: AnyArray,
    *,
    direct_io: bool = False,
) -> list[Task]:
    """What brings places `[starts[i], starts[i] + lengths[i])`, ascending, to `out[targets[i]:]`.

    Tasks of about 1 MB, for any threads. Every shard that is needed is opened here; where these are more than
    a share of the files that are kept open, each task opens a few. `direct_io`: past the system's page cache
    where that can be done, for data that would not stay in it.
    """
    if not len(starts) or not array.place_bytes:
        return []
    number = starts // array.spec.shard
    other = number[1:] != number[:-1]
    if np.count_nonzero(other) < handles.most_open() // _OPEN_SHARE:
        return _planned(array, starts, lengths, targets, out, direct_io=direct_io)
    bounds = _runs(np.zeros_like(other), np.append(0, np.cumsum(other)), _SHARDS_A_TASK).tolist()
    return [
        partial(
            _in_turn,
            array,
            starts[low:high],
            None if lengths is None else lengths[low:high],
            targets[low:high],
            out,
            direct_io=direct_io,
        )
        for low, high in pairwise(bounds)
    ]


def _in_turn(
    array: ShardedArray,
    starts: IntArray,
    lengths: IntArray | None,
    targets: IntArray,
    out: AnyArray,
    *,
    direct_io: bool,
) -> None:
    for task in _planned(array, starts, lengths, targets, out, direct_io=direct_io):
        task()


def _planned(
    array: ShardedArray,
    starts: IntArray,
    lengths: IntArray | None,
    targets: IntArray,
    out: AnyArray,
    *,
    direct_io: bool,
) -> list[Task]:
    pieces = cut(starts, lengths, targets, array.spec.chunk)
    if direct_io or (lengths is None and array.place_bytes < _VECTOR_BYTES):
        return _beside_tasks(array, pieces, out, single=lengths is None, direct_io=direct_io)
    known = array.trusts(pieces.chunk)
    if known.all():
        return _direct_tasks(array, pieces, out)
    whole = ~known & _covered(pieces, array.spec.chunk)
    beside = ~known & ~whole
    tasks: list[Task] = []
    if whole.any():
        tasks += _whole_tasks(array, pieces[whole], out)
    if beside.any():
        tasks += _beside_tasks(array, pieces[beside], out, single=lengths is None)
    return [*tasks, *_direct_tasks(array, pieces[known], out)] if known.any() else tasks


def _covered(pieces: Pieces, size: int) -> AnyArray:
    """Which pieces are of a chunk that they cover exactly, each place once; bool."""
    same = pieces.chunk[1:] == pieces.chunk[:-1]
    begins = np.flatnonzero(np.concatenate([np.ones(1, bool), ~same]))
    overlaps = same & (pieces.first[1:] < (pieces.first + pieces.places)[:-1])
    lapping = np.add.reduceat(np.concatenate([np.zeros(1, np.int64), overlaps]), begins)
    whole = (np.add.reduceat(pieces.places, begins) == size) & (lapping == 0)
    return np.repeat(whole, np.diff(np.append(begins, len(pieces.chunk))))


def _direct_tasks(array: ShardedArray, pieces: Pieces, out: AnyArray) -> list[Task]:
    reads = _DirectReads(array, pieces, out)
    return [partial(reads.run, low, high) for low, high in reads.shares()]


class _DirectReads:
    """Vector reads into the output, worked out for all pieces together."""

    def __init__(self, array: ShardedArray, pieces: Pieces, out: AnyArray) -> None:
        place = array.place_bytes
        self._array, self._chunk = array, pieces.chunk
        number, self._held = _opened(array, pieces.chunk)
        begin = _offsets(array, pieces.chunk, number, self._held) + pieces.first * place
        size, low = pieces.places * place, pieces.target * place
        gap = begin[1:] - (begin + size)[:-1]
        apart = (gap < 0) | (gap > shard.MOST_GAP) | (number[1:] != number[:-1])
        # A checksum's scratch is one more buffer of the read.
        runs = _runs(apart, np.arange(len(begin)), files.MOST_PIECES // 2)
        last = runs[1:] - 1
        wanted = begin[last] + size[last] - begin[runs[:-1]]
        self._ends = np.cumsum(wanted)
        self._runs, self._wanted, self._begin = runs.tolist(), wanted.tolist(), begin[runs[:-1]].tolist()
        self._shard = number[runs[:-1]].tolist()
        self._low, self._high, self._gap = low.tolist(), (low + size).tolist(), gap.tolist()
        self._view = memoryview(shard.as_bytes(out))  # type: ignore[arg-type]  # arrays are buffers

    def shares(self) -> list[tuple[int, int]]:
        """Slices of the runs, of some 1 MB each."""
        cuts = np.searchsorted(self._ends, np.arange(_TASK_BYTES, int(self._ends[-1]), _TASK_BYTES)) + 1
        return list(pairwise(np.unique([0, *cuts.tolist(), len(self._ends)]).tolist()))

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


def _whole_tasks(array: ShardedArray, pieces: Pieces, out: AnyArray) -> list[Task]:
    """Runs of whole neighbouring chunks, read straight to where their pieces belong, and tested there."""
    flat = shard.as_bytes(out)
    return [
        partial(_read_whole, array, held, part, begin, flat)
        for held, part, begin in _neighbours(array, pieces, advise=True)
    ]


def _read_whole(
    array: ShardedArray, held: OpenShard, pieces: Pieces, begin: IntArray, flat: ByteArray
) -> None:
    low = pieces.target * array.place_bytes
    high = low + pieces.places * array.place_bytes
    rows = [flat[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    borders = (np.flatnonzero(pieces.chunk[1:] != pieces.chunk[:-1]) + 1).tolist()
    chunks = list(pairwise([0, *borders, len(rows)]))
    gap = shard.slot_bytes(array.chunk_bytes) - array.chunk_bytes
    room = np.empty((len(chunks), gap), np.uint8)
    tails = [*room[:-1], room[-1, : shard.CRC]]
    buffers: list[ByteArray | memoryview] = []
    for (i, j), tail in zip(chunks, tails, strict=True):
        buffers += rows[i:j]
        buffers.append(tail)
    if not files.read_run(held.handle, buffers, int(begin[0])):
        raise array.corrupt("the shard is cut short", int(pieces.chunk[0]))
    for (i, j), tail in zip(chunks, tails, strict=True):
        crc = 0
        for row in rows[i:j]:
            crc = google_crc32c.extend(crc, row)
        array.test(int(pieces.chunk[i]), crc, tail[: shard.CRC])


def _beside_tasks(
    array: ShardedArray, pieces: Pieces, out: AnyArray, *, single: bool, direct_io: bool = False
) -> list[Task]:
    """Runs of chunks that are neighbours in a shard, each read whole into scratch and copied from there."""
    advise = not direct_io and not array.trusts(pieces.chunk).all()
    return [
        partial(_read_beside, array, held, part, begin, out, single=single, direct_io=direct_io)
        for held, part, begin in _neighbours(array, pieces, advise=advise)
    ]


def _neighbours(
    array: ShardedArray, pieces: Pieces, *, advise: bool
) -> list[tuple[OpenShard, Pieces, IntArray]]:
    """Runs of chunks that follow each other in a shard, about 2 MB, with where each piece's chunk begins.

    `advise`: what is read for the first time lies on the disk, as a rule; it is asked for all at once.
    """
    number, held = _opened(array, pieces.chunk)
    begin = _offsets(array, pieces.chunk, number, held)
    same = pieces.chunk[1:] == pieces.chunk[:-1]
    near = same | (begin[1:] - begin[:-1] == shard.slot_bytes(array.chunk_bytes))
    runs = list(pairwise(_runs(~near | (number[1:] != number[:-1]), begin, _SPAN_BYTES).tolist()))
    if advise:
        for i, j in runs:
            end = int(begin[j - 1]) + array.chunk_bytes + shard.CRC
            files.advise(held[int(number[i])].handle, int(begin[i]), end)
    return [(held[int(number[i])], pieces[i:j], begin[i:j]) for i, j in runs]


def _read_beside(
    array: ShardedArray,
    held: OpenShard,
    pieces: Pieces,
    offset: IntArray,
    out: AnyArray,
    *,
    single: bool,
    direct_io: bool,
) -> None:
    """Pieces of chunks that follow each other in a shard; of tested chunks only what is needed."""
    place, whole = array.place_bytes, array.chunk_bytes
    trusted = array.trusts(pieces.chunk)
    lead, size = 0, whole + shard.CRC
    if trusted.all():
        lead = int(pieces.first[0]) * place
        size = int((pieces.first + pieces.places)[offset == offset[-1]].max()) * place
    begin = int(offset[0]) + lead
    room = _load(held, begin, int(offset[-1]) + size, direct_io=direct_io)
    if room is None:
        raise array.corrupt("the shard is cut short", int(pieces.chunk[0]))
    borders = (np.flatnonzero(pieces.chunk[1:] != pieces.chunk[:-1]) + 1).tolist()
    for low, high in pairwise([0, *borders, len(offset)]):
        at = int(offset[low]) - begin
        if not trusted[low]:
            crc = google_crc32c.value(room[at : at + whole])
            array.test(int(pieces.chunk[low]), crc, room[at + whole : at + whole + shard.CRC])
        copy = _copy_rows if single else _copy_stretches
        copy(array, pieces[low:high], room, at, out)


def _load(held: OpenShard, begin: int, end: int, *, direct_io: bool) -> ByteArray | None:
    """Bytes `[begin, end)` of a shard in scratch of this thread; none where the file ends before."""
    handle = held.direct() if direct_io else -1
    if handle >= 0:
        first = begin // _PAGE_BYTES * _PAGE_BYTES
        room = _room(-(-(end - first) // _PAGE_BYTES) * _PAGE_BYTES)
        with suppress(OSError):  # a file system may refuse what it promised at opening
            if os.preadv(handle, [room], first) >= end - first:  # type: ignore[list-item]  # arrays are buffers
                return room[begin - first : end - first]
    room = _room(end - begin)
    return room if files.read_run(held.handle, [room], begin) else None


def _copy_rows(array: ShardedArray, pieces: Pieces, room: ByteArray, at: int, out: AnyArray) -> None:
    """Single places of one chunk, which begins at byte `at` of `room`, all at once."""
    base, stop = int(pieces.first[0]), int(pieces.first[-1]) + 1
    part = room[at + base * array.place_bytes : at + stop * array.place_bytes]
    out[pieces.target] = part.view(array.dtype).reshape(-1, *out.shape[1:])[pieces.first - base]


def _copy_stretches(array: ShardedArray, pieces: Pieces, room: ByteArray, at: int, out: AnyArray) -> None:
    flat = shard.as_bytes(out)
    source, target = at + pieces.first * array.place_bytes, pieces.target * array.place_bytes
    size = pieces.places * array.place_bytes
    for a, b, n in zip(source.tolist(), target.tolist(), size.tolist(), strict=True):
        flat[b : b + n] = room[a : a + n]


def _opened(array: ShardedArray, chunk: IntArray) -> tuple[IntArray, dict[int, OpenShard]]:
    """The shard of every chunk, and these shards, open."""
    number = chunk // array.chunks_a_shard
    first = np.concatenate([np.ones(1, bool), number[1:] != number[:-1]])
    return number, {n: array.shard(n) for n in number[first].tolist()}


def _offsets(
    array: ShardedArray, chunk: IntArray, number: IntArray, held: Mapping[int, OpenShard]
) -> IntArray:
    """Where ascending chunks begin in their shards; `CorruptStoreError` where one is missing."""
    local = chunk - number * array.chunks_a_shard
    found = np.empty_like(local)
    bounds = [0, *(np.flatnonzero(number[1:] != number[:-1]) + 1).tolist(), len(chunk)]
    for (low, high), opened in zip(pairwise(bounds), held.values(), strict=True):
        found[low:high] = opened.offsets[local[low:high]]
    if int(found.min()) < 0:
        raise array.corrupt("a chunk is missing", int(chunk[int(found.argmin())]))
    return found


def _runs(apart: AnyArray, values: IntArray, most: int) -> IntArray:
    """Bounds of runs `(r + 1,)`: one ends where the next is `apart`, or where its values grew by `most`."""
    begins = np.concatenate([np.ones(1, bool), apart])
    start = values[np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))]
    part = (values - start) // most
    begins[1:] |= part[1:] != part[:-1]
    return np.append(np.flatnonzero(begins), len(begins))


def _room(nbytes: int) -> ByteArray:
    """Scratch of this thread that begins at a page, used again and again where it is not too large."""
    if nbytes > 2 * _SPAN_BYTES:
        return _paged(nbytes)
    if not hasattr(_rooms, "room"):
        _rooms.room = _paged(2 * _SPAN_BYTES)
    room: ByteArray = _rooms.room[:nbytes]
    return room


def _paged(nbytes: int) -> ByteArray:
    room = np.empty(nbytes + _PAGE_BYTES, np.uint8)
    skip = -room.ctypes.data % _PAGE_BYTES
    return room[skip : skip + nbytes]
