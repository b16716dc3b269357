"""Many rows at once: blocks of neighbours read by a few threads straight into the shuffled rows of a buffer.

A group of rows, in any order, is cut into spans: places of one shard close together, some 1.5 MB. Each
span is one positioned vector read (a handful where rows are left out) whose pieces land where the rows
belong; the checksums between chunks fall into scratch. No Python object lives longer than a span.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.remote_array import RemoteArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.chunks import ShardedArray

Task: TypeAlias = "Callable[[], None]"

_APART_BYTES = 256 << 10
_SAMPLES = 16


def default_threads() -> int:
    """Threads that read: as many as cores, from 2 to 8."""
    return min(8, max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))


def row_tasks(array: ShardedArray, places: IntArray, out: AnyArray) -> list[Task]:
    """What fills `out[i]` with place `places[i]`, in any order, repeats allowed: one task a span."""
    wanted, out = array.wanted(places, out)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    spans = list(_spans(array, ascending))
    _request(spans, ascending, ascending + 1)
    return [
        partial(part.fill, ascending[low:high] - first, order[low:high], out)
        for part, first, low, high in spans
    ]


def packed_tasks(
    array: ShardedArray, starts: IntArray, lengths: IntArray, targets: IntArray, out: AnyArray
) -> list[Task]:
    """What fills `out[targets[i]:][:lengths[i]]` with places from `starts[i]` on, of texts in any order.

    A text lies in one shard. Texts that stand up to 256 KB apart make one task.
    """
    some = np.flatnonzero(lengths)
    order = some[np.argsort(starts[some], kind="stable")]
    start, target, length = starts[order], targets[order], lengths[order]
    spans = list(_spans(array, start, gap=_APART_BYTES))
    _request(spans, start, start + length)
    return [
        partial(part.read_segments, start[low:high] - first, length[low:high], target[low:high], out)
        for part, first, low, high in spans
    ]


def _request(spans: list[tuple[ShardedArray, int, int, int]], starts: IntArray, stops: IntArray) -> None:
    """Have all spans of remote stores on their way before the first of them is waited for."""
    for part, first, low, high in spans:
        if isinstance(part, RemoteArray):
            part.request(int(starts[low]) - first, int(stops[high - 1]) - first)


def _spans(
    array: ShardedArray, ascending: IntArray, **options: int
) -> Iterator[tuple[ShardedArray, int, int, int]]:
    """The spans of every part of an array: the part, its first place, and a slice of `ascending`."""
    for part, first in array.parts:
        low = int(np.searchsorted(ascending, first))
        high = int(np.searchsorted(ascending, first + part.spec.shape[0]))
        for start, stop in part.spans(ascending[low:high] - first, **options):
            yield part, first, low + start, low + stop


def advise(array: ShardedArray, places: IntArray, *, lengths: IntArray | None = None) -> None:
    """Ask the kernel to bring these places, or stretches of these lengths, into memory soon.

    Neighbours come with all that lies between them: of a block of images their whole range of captions.
    Nothing is asked where some samples are in memory already: then asking costs more than it brings.
    """
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    stops = ascending + (1 if lengths is None else np.maximum(lengths[order], 1))
    spans = list(_spans(array, ascending, gap=_APART_BYTES))
    sampled = spans[:: max(1, len(spans) // _SAMPLES)]
    if all(part.in_memory(int(ascending[low]) - first) for part, first, low, _ in sampled):
        return
    for part, first, low, high in spans:
        part.advise(int(ascending[low]) - first, int(stops[high - 1]) - first)


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

    def close(self) -> None:
        """End the threads; a later `run` starts new ones."""
        with self._lock:
            if self._pool is not None and self._owner == os.getpid():
                self._pool.shutdown()
            self._pool = None


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
