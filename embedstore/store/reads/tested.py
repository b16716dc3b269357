"""Pieces of chunks whose checksum is still to be tested, or which are too small for a buffer of their own.

A chunk that is wanted whole is tested where its pieces land; others are read beside the output and copied.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from embedstore.store import files, shard
from embedstore.store.reads.direct import MAPPED_BYTES
from embedstore.store.reads.pieces import offsets, opened, run_bounds

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.reads.chunks import OpenShard, ShardedArray
    from embedstore.store.reads.pieces import Pieces, Task

_SPAN_BYTES = 2 << 20
_PAGE_BYTES = 4096
_rooms = threading.local()


def whole_tasks(array: ShardedArray, pieces: Pieces, out: AnyArray) -> list[Task]:
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


def beside_tasks(
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
    number, held = opened(array, pieces.chunk)
    begin = offsets(array, pieces.chunk, number, held)
    same = pieces.chunk[1:] == pieces.chunk[:-1]
    near = same | (begin[1:] - begin[:-1] == shard.slot_bytes(array.chunk_bytes))
    runs = list(pairwise(run_bounds(~near | (number[1:] != number[:-1]), begin, _SPAN_BYTES).tolist()))
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
    mapped = None if direct_io or end - begin < MAPPED_BYTES else held.mapped(begin, end)
    if mapped is not None:
        return mapped[begin:end]
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
