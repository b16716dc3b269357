"""Many rows at once, of arrays of any number of parts, by a few threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.reads.chunks import ShardedArray
    from embedstore.store.reads.pieces import Task

_APART_BYTES = 256 << 10
_SAMPLES = 16


def default_threads() -> int:
    """Threads that read: as many as cores, from 2 to 8."""
    return min(8, max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))


def row_tasks(array: ShardedArray, places: IntArray, out: AnyArray, *, direct_io: bool = False) -> list[Task]:
    """What fills `out[i]` with place `places[i]`, in any order, repeats allowed; see `scatter_tasks`."""
    wanted, out = array.wanted(places, out)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    return [
        task
        for part, first, low, high in _parts(array, ascending)
        for task in part.scatter(ascending[low:high] - first, None, order[low:high], out, direct_io=direct_io)
    ]


def packed_tasks(
    array: ShardedArray, starts: IntArray, lengths: IntArray, targets: IntArray, out: AnyArray
) -> list[Task]:
    """What fills `out[targets[i]:][:lengths[i]]` with places from `starts[i]` on, of texts in any order.

    A text lies in one shard.
    """
    some = np.flatnonzero(lengths)
    order = some[np.argsort(starts[some], kind="stable")]
    start, length, target = starts[order], lengths[order], targets[order]
    return [
        task
        for part, first, low, high in _parts(array, start)
        for task in part.scatter(start[low:high] - first, length[low:high], target[low:high], out)
    ]


def _parts(array: ShardedArray, ascending: IntArray) -> Iterator[tuple[ShardedArray, int, int, int]]:
    """The arrays that an array is made of: each with its first place, and its slice of `ascending`."""
    for part, first in array.parts:
        low, high = np.searchsorted(ascending, (first, first + part.spec.shape[0])).tolist()
        if low < high:
            yield part, first, low, high


def advise(
    array: ShardedArray, places: IntArray, *, lengths: IntArray | None = None, direct_io: bool = False
) -> None:
    """Ask the kernel to bring these places, or stretches of these lengths, into memory soon.

    Neighbours come with all that lies between them: of a block of images their whole range of captions.
    Nothing is asked where all samples are in memory already: then asking costs more than it brings; nor of
    what will be read with `direct_io`.
    """
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    stops = ascending + (1 if lengths is None else np.maximum(lengths[order], 1))
    spans = [
        (part, int(ascending[low + a]) - first, int(stops[low + b - 1]) - first)
        for part, first, low, high in _parts(array, ascending)
        if not (direct_io and part.past_cache)
        for a, b in _spans(part, ascending[low:high] - first)
    ]
    sampled = spans[:: max(1, len(spans) // _SAMPLES)]
    if all(part.in_memory(start) for part, start, _ in sampled):
        return
    for part, start, stop in spans:
        part.advise(start, stop)


def _spans(array: ShardedArray, ascending: IntArray) -> Iterator[tuple[int, int]]:
    """Slices of ascending places of one shard, at most 256 KB apart."""
    apart = np.diff(ascending) > 1 + _APART_BYTES // max(1, array.place_bytes)
    other = np.diff(ascending // array.spec.shard) != 0
    return pairwise([0, *(np.flatnonzero(apart | other) + 1).tolist(), len(ascending)])


class GroupReader:
    """Runs the tasks of a group in `threads` threads, the caller's among them; works after a fork too."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise UsageError("bad number of reading threads", found=threads, allowed="1 or more")
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def __reduce__(self) -> tuple[type[GroupReader], tuple[int]]:
        return GroupReader, (self.threads,)

    def run(self, tasks: Iterable[Task]) -> None:
        """Do all tasks, in any order; the first error ends the rest and is raised here."""
        waiting = deque(tasks)
        helpers = [self._helpers().submit(_work, waiting) for _ in range(min(self.threads, len(waiting)) - 1)]
        try:
            _work(waiting)
        finally:
            done = [helper.exception() for helper in helpers]
        for bad in done:
            if bad is not None:
                raise bad

    def _helpers(self) -> ThreadPoolExecutor:
        with self._lock:
            # The threads of a parent process do not exist in its fork.
            if self._pool is None or self._owner != os.getpid():
                self._pool = ThreadPoolExecutor(max(1, self.threads - 1), "embedstore-read")
                self._owner = os.getpid()
            return self._pool


def _work(waiting: deque[Task]) -> None:
    while (task := _next(waiting)) is not None:
        try:
            task()
        except BaseException:
            waiting.clear()
            raise


def _next(waiting: deque[Task]) -> Task | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None
