"""Reading in a background thread, a bounded number of batches ahead, into buffers that are used again."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Job = TypeVar("Job")
Buffers = TypeVar("Buffers")
Batch = TypeVar("Batch")

READ_AHEAD_BYTES = 256 << 20
MOST_AHEAD = 4


def buffer_sets(batch_bytes: int, budget: int = READ_AHEAD_BYTES) -> int:
    """How many sets of buffers a budget in bytes holds: two at least, so that reading and use overlap."""
    return min(MOST_AHEAD, max(2, budget // max(1, batch_bytes)))


class ReadAhead(Generic[Job, Buffers, Batch]):
    """Iterate over `read(job, buffers)` for every job, in order, read ahead by one thread.

    A batch is valid until the next one is asked for: its buffers are then filled again. There are as many
    batches in memory as sets of buffers. What `read` raises is raised here. `waited` sums the seconds that
    the caller stood waiting for a batch. To leave early, `close` it or use `with`: that stops the thread and
    waits for it. One that is dropped half read stops too, after the job it is at: the thread knows the queues
    alone, never this object.
    """

    def __init__(
        self, jobs: Iterable[Job], read: Callable[[Job, Buffers], Batch], buffers: Sequence[Buffers]
    ) -> None:
        self.waited = 0.0
        self._free: queue.SimpleQueue[Buffers | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Batch, Buffers] | BaseException | None] = queue.SimpleQueue()
        self._held: Buffers | None = None
        self._done = False
        for each in buffers:
            self._free.put(each)
        stopped = threading.Event()
        self._stop = weakref.finalize(self, _stop, stopped, self._free)
        self._thread = threading.Thread(
            target=_work,
            args=(iter(jobs), read, self._free, self._ready, stopped),
            name="embedstore-read-ahead",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._done:
            raise StopIteration
        if self._held is not None:
            self._free.put(self._held)
            self._held = None
        start = time.perf_counter()
        found = self._ready.get()
        self.waited += time.perf_counter() - start
        if isinstance(found, BaseException):
            self.close()
            raise found
        if found is None:
            self.close()
            raise StopIteration
        batch, self._held = found
        return batch

    def close(self) -> None:
        """Stop reading and wait for the thread; iterating further ends at once."""
        self._done = True
        self._stop()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _work(
    jobs: Iterator[Job],
    read: Callable[[Job, Buffers], Batch],
    free: queue.SimpleQueue[Buffers | None],
    ready: queue.SimpleQueue[tuple[Batch, Buffers] | BaseException | None],
    stopped: threading.Event,
) -> None:
    try:
        for job in jobs:
            room = free.get()
            if room is None or stopped.is_set():
                return
            ready.put((read(job, room), room))
            del room
        ready.put(None)
    except BaseException as bad:  # noqa: BLE001 - handed to the thread that asked
        ready.put(bad)


def _stop(stopped: threading.Event, free: queue.SimpleQueue[Buffers | None]) -> None:
    stopped.set()
    free.put(None)
