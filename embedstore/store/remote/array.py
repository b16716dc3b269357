"""Arrays of remote stores: the local reader, with every chunk brought before it is read."""

from __future__ import annotations

import os
import threading
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedstore.errors import CorruptStoreError, StoreError
from embedstore.store.reads import handles
from embedstore.store.reads.chunks import ShardedArray
from embedstore.store.reads.scatter import scatter_tasks
from embedstore.store.remote.mirror import Mirror, mirror_of
from embedstore.store.remote.requests import requests
from embedstore.store.remote.shard import RemoteShard, chunks_between, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.reads.chunks import Verify
    from embedstore.store.reads.pieces import Task

T = TypeVar("T")

# What is asked for at once by one call; the rest waits, so that the cache need not hold all of it.
_SHARDS_AT_ONCE, _BYTES_AT_ONCE, _SHARE_BYTES = 64, 64 << 20, 4 << 20


class RemoteArray(ShardedArray):
    """One array of a remote feature. Thread-safe.

    A chunk from the cache that does not agree with its checksum is fetched once more before it is an error.
    """

    def __init__(self, feature: Path, spec: ArraySpec, verify: Verify = "first") -> None:
        super().__init__(feature, spec, verify)
        self._mirror: Mirror = mirror_of(feature)
        self._pins = threading.local()
        self._process = os.getpid()
        self._doors: dict[tuple[int, int], threading.Lock] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteArray, (self._feature, self.spec, self._mode)

    @property
    def past_cache(self) -> bool:
        """Whether `direct_io` means something: what is brought lies in the page cache."""
        return False

    def _name(self, number: int) -> str:
        return (self._feature / self._path(number)).relative_to(self._mirror.root).as_posix()

    def shard(self, number: int) -> RemoteShard:
        """The open shard; what is being read in this thread stays the same one to the end of the read."""
        held: RemoteShard | None = getattr(self._pins, "held", None)
        if held is None or held.number != number:
            with self._doors.setdefault((os.getpid(), number), threading.Lock()):
                held = self._standing(number) or self._open_remote(number)
        return held

    def _standing(self, number: int) -> RemoteShard | None:
        if self._process != os.getpid():
            # Threads that held the lock at a fork are not there to open it again.
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            found = self._open.get(number)
            if not isinstance(found, RemoteShard) or found.evicted():
                return None
        handles.used(self, number)
        return found

    def _open_remote(self, number: int) -> RemoteShard:
        arguments = (self._mirror, self._name(number), self.spec, self.chunk_bytes, self._where(number))
        try:
            held = RemoteShard(*arguments)
        except CorruptStoreError:
            # The first try may have met a cached file that somebody damaged; it is gone now.
            held = RemoteShard(*arguments)
        held.number = number
        with self._lock:
            # An evicted file takes space as long as it is open.
            for other, opened in list(self._open.items()):
                if isinstance(opened, RemoteShard) and opened.evicted():
                    self.let_go(other)
            self._open[number] = held
        handles.used(self, number)
        return held

    def trusts(self, chunks: IntArray) -> AnyArray:
        """As of a local array, by what was found in the very file that this thread reads."""
        if self._mode != "first":
            return super().trusts(chunks)
        held = self._pins.held
        known: AnyArray = held.tested[chunks - held.number * self.chunks_a_shard] != 0
        return known

    def _trust(self, chunk: int) -> None:
        held = self._pins.held
        held.tested[chunk - held.number * self.chunks_a_shard] = 1

    def _reading(self, number: int, chunks: Iterable[int], work: Callable[[], T]) -> T:
        """Do `work`, which reads these chunks of one shard, with them on this machine."""
        chosen = list(chunks)
        for last in (False, True):
            held = self.shard(number)
            held.bring(chosen)
            self._pins.held = held
            try:
                return work()
            except CorruptStoreError:
                held.drop()
                if last:
                    raise
            finally:
                self._pins.held = None
        raise StoreError("a shard was not read", where=self._where(number))

    def read(self, start: int, stop: int, out: AnyArray | None = None) -> AnyArray:
        """Places `[start, stop)`, as of a local array; what lies in several shards comes by many requests."""
        if not 0 <= start <= stop <= self.spec.shape[0]:
            return super().read(start, stop, out)
        if out is None:
            self.refuse_impossible_read(start, stop)
            out = self.empty(stop - start)
        size = self.spec.shard
        step = size * max(1, min(_SHARDS_AT_ONCE, _BYTES_AT_ONCE // max(1, size * self.place_bytes)))
        for low in range(start - start % size, stop, step):
            first, last = max(start, low), min(stop, low + step)
            for at in range(low, last, size):
                self._request_places(max(first, at), min(last, at + size), ahead=False)
            super().read(first, last, self._checked_out(out, stop - start)[first - start : last - start])
        return out

    def gather(self, places: IntArray, out: AnyArray | None = None) -> AnyArray:
        """Any places in any order, as of a local array; by many requests."""
        wanted, out = self.wanted(places, out)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        count = max(1, _BYTES_AT_ONCE // max(1, self.place_bytes))
        for first in range(0, len(order), count):
            some = slice(first, first + count)
            for task in self.scatter(ascending[some], None, order[some], out):
                task()
        return out

    def _read_shard(self, number: int, first: int, stop: int, out: ByteArray) -> None:
        chunks = chunks_between(first, stop, self.spec.chunk)
        super_read = super()._read_shard
        self._reading(number, chunks, lambda: super_read(number, first, stop, out))

    def scatter(
        self,
        starts: IntArray,
        lengths: IntArray | None,
        targets: IntArray,
        out: AnyArray,
        *,
        direct_io: bool = False,  # noqa: ARG002 - see past_cache
    ) -> list[Task]:
        """As of a local array, all chunks being on their way before the first of them is waited for."""
        number = starts // self.spec.shard
        long = np.ones_like(starts) if lengths is None else lengths
        tasks: list[Task] = []
        for low, high in _shares(number, np.cumsum(long) * self.place_bytes):
            at = int(number[low])
            chunks = chunks_of(starts[low:high] - at * self.spec.shard, long[low:high], self.spec.chunk)
            self._request(at, chunks, ahead=False)
            some = None if lengths is None else lengths[low:high]
            work = partial(self._scattered, starts[low:high], some, targets[low:high], out)
            tasks.append(partial(self._reading, at, chunks, work))
        return tasks

    def _scattered(
        self, starts: IntArray, lengths: IntArray | None, targets: IntArray, out: AnyArray
    ) -> None:
        for task in scatter_tasks(self, starts, lengths, targets, out):
            task()

    def _file_bytes(self, number: int) -> int:
        stat = self._mirror.shard_stat(self._name(number))
        return 0 if stat is None else stat.nbytes

    def in_memory(self, place: int) -> bool:
        """Whether the chunk of a place is on this machine already."""
        number, local = divmod(place, self.spec.shard)
        held = self._standing(number)
        return held is not None and held.has(local // self.spec.chunk)

    def advise(self, start: int, stop: int) -> None:
        """Start to bring places `[start, stop)` of one shard, which will be read later."""
        if getattr(self._pins, "held", None) is None:
            self._request_places(start, stop, ahead=True)

    def _request_places(self, start: int, stop: int, *, ahead: bool) -> None:
        number, first = divmod(start, self.spec.shard)
        chunks = chunks_between(first, stop - number * self.spec.shard, self.spec.chunk)
        self._request(number, chunks, ahead=ahead)

    def _request(self, number: int, chunks: Sequence[int], *, ahead: bool) -> None:
        held = self._standing(number)
        if held is not None:
            held.begin(chunks, ahead=ahead)
            return
        requests(ahead=ahead).submit(self._begin, number, chunks, ahead=ahead)

    def _begin(self, number: int, chunks: Sequence[int], *, ahead: bool) -> None:
        self.shard(number).begin(chunks, ahead=ahead)


def _shares(number: IntArray, nbytes: IntArray) -> Iterator[tuple[int, int]]:
    """Slices of stretches of one shard, about 4 MB each, from the running sum of their bytes."""
    if not len(number):
        return iter(())
    apart = (number[1:] != number[:-1]) | (nbytes[1:] // _SHARE_BYTES != nbytes[:-1] // _SHARE_BYTES)
    return pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(number)])
