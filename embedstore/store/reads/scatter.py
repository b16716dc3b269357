"""Many stretches of one array at once: as few vector reads as possible, straight to where they belong.

Stretches are cut at chunk borders into pieces, and everything about them is worked out for all pieces
together, so that a reading thread has nothing left to do but slice a buffer and copy, or ask the kernel.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store.reads import handles
from embedstore.store.reads.direct import direct_tasks
from embedstore.store.reads.pieces import covered, cut, run_bounds
from embedstore.store.reads.tested import beside_tasks, whole_tasks

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.reads.chunks import ShardedArray
    from embedstore.store.reads.pieces import Task

_VECTOR_BYTES = 4 << 10
# Tasks hold their shards open, and a stream reads some arrays at once.
_OPEN_SHARE = 4
_SHARDS_A_TASK = 8


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
    bounds = run_bounds(np.zeros_like(other), np.append(0, np.cumsum(other)), _SHARDS_A_TASK).tolist()
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
        return beside_tasks(array, pieces, out, single=lengths is None, direct_io=direct_io)
    known = array.trusts(pieces.chunk)
    if known.all():
        return direct_tasks(array, pieces, out)
    whole = ~known & covered(pieces, array.spec.chunk)
    beside = ~known & ~whole
    tasks: list[Task] = []
    if whole.any():
        tasks += whole_tasks(array, pieces[whole], out)
    if beside.any():
        tasks += beside_tasks(array, pieces[beside], out, single=lengths is None)
    return [*tasks, *direct_tasks(array, pieces[known], out)] if known.any() else tasks
