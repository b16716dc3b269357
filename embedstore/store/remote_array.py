"""Arrays of remote stores: the local reader, with every chunk brought before it is read."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedstore.errors import CorruptStoreError, StoreError
from embedstore.store.cache_folder import is_mirrored
from embedstore.store.chunks import _MOST_OPEN, REPAIR, ShardedArray
from embedstore.store.mirror import Mirror, mirror_of
from embedstore.store.remote_shard import RemoteShard, chunks_between, chunks_of
from embedstore.store.requests import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.chunks import Verify

T = TypeVar("T")

# What is asked for at once by one call; the rest waits, so that the cache need not hold all of it.
_SHARDS_AT_ONCE, _SPANS_AT_ONCE, _BYTES_AT_ONCE = 64, 128, 64 << 20


def open_array(feature: Path, spec: ArraySpec, verify: Verify) -> ShardedArray:
    """An array of a feature's folder, which may lie in the mirror of a remote store."""
    kind = RemoteArray if is_mirrored(feature) else ShardedArray
    return kind(feature, spec, verify)


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

    def _name(self, number: int) -> str:
        return (self._feature / self._path(number)).relative_to(self._mirror.root).as_posix()

    def _shard(self, number: int) -> tuple[RemoteShard, bytearray]:
        """The open shard; what is being read in this thread stays the same one to the end of the read."""
        held: RemoteShard | None = getattr(self._pins, "held", None)
        if held is None or held.number != number:
            with self._doors.setdefault((os.getpid(), number), threading.Lock()):
                held = self._standing(number) or self._open_remote(number)
        return held, held.checked

    def _standing(self, number: int) -> RemoteShard | None:
        if self._process != os.getpid():
            # Threads that held the lock at a fork are not there to open it again.
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            found = self._open.get(number)
            if not isinstance(found, RemoteShard) or found.evicted():
                return None
            self._open.move_to_end(number)
            return found

    def _open_remote(self, number: int) -> RemoteShard:
        arguments = (self._mirror, self._name(number), self.spec, self._chunk_bytes, self._where(number))
        try:
            held = RemoteShard(*arguments)
        except CorruptStoreError:
            # The first try may have met a cached file that somebody damaged; it is gone now.
            held = RemoteShard(*arguments)
        held.number = number
        with self._lock:
            # An evicted file takes space as long as it is open.
            gone = [n for n, o in self._open.items() if isinstance(o, RemoteShard) and o.evicted()]
            for other in gone:
                del self._open[other]
            self._open[number] = held
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return held

    def _reading(self, number: int, chunks: Iterable[int], work: Callable[[], T]) -> T:
        """Do `work`, which reads these chunks of one shard, with them on this machine."""
        chosen = list(chunks)
        for last in (False, True):
            held, _ = self._shard(number)
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
                self.request(max(first, at), min(last, at + size))
            super().read(first, last, self._checked_out(out, stop - start)[first - start : last - start])
        return out

    def gather(self, places: IntArray, out: AnyArray | None = None) -> AnyArray:
        """Any places in any order, as of a local array; by many requests."""
        wanted, out = self.wanted(places, out)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        spans = self.spans(ascending)
        for first in range(0, len(spans), _SPANS_AT_ONCE):
            some = spans[first : first + _SPANS_AT_ONCE]
            for low, high in some:
                self.request(int(ascending[low]), int(ascending[high - 1]) + 1)
            for low, high in some:
                self.fill(ascending[low:high], order[low:high], out)
        return out

    def _read_shard(self, number: int, first: int, stop: int, out: ByteArray) -> None:
        chunks = chunks_between(first, stop, self.spec.chunk)
        super_read = super()._read_shard
        self._reading(number, chunks, lambda: super_read(number, first, stop, out))

    def _read_one(self, at: int, row: AnyArray) -> bool:
        number, local = divmod(at, self.spec.shard)
        super_read = super()._read_one
        return self._reading(number, [local // self.spec.chunk], lambda: super_read(at, row))

    def read_segments(self, starts: IntArray, lengths: IntArray, targets: IntArray, out: AnyArray) -> None:
        """Stretches of places of one shard, as of a local array."""
        number = int(starts[0]) // self.spec.shard
        chunks = chunks_of(starts - number * self.spec.shard, lengths, self.spec.chunk)
        super_read = super().read_segments
        self._reading(number, chunks, lambda: super_read(starts, lengths, targets, out))

    def _refuse_short(self, number: int, places: int) -> None:
        stat = self._mirror.shard_stat(self._name(number))
        size = 0 if stat is None else stat.nbytes
        if places * self.place_bytes > size:
            raise CorruptStoreError(
                "the header promises more than the shard holds",
                where=self._where(number),
                found=f"{size} bytes",
                allowed=f"{places} places of {self.place_bytes} bytes",
                todo=REPAIR,
            )

    def in_memory(self, place: int) -> bool:
        """Whether the chunk of a place is on this machine already."""
        number, local = divmod(place, self.spec.shard)
        held = self._standing(number)
        return held is not None and held.has(local // self.spec.chunk)

    def advise(self, start: int, stop: int) -> None:
        """Start to bring places `[start, stop)` of one shard, which will be read later."""
        if getattr(self._pins, "held", None) is None:
            self.request(start, stop, ahead=True)

    def request(self, start: int, stop: int, *, ahead: bool = False) -> None:
        """Start to bring places `[start, stop)` of one shard."""
        number, first = divmod(start, self.spec.shard)
        chunks = chunks_between(first, stop - number * self.spec.shard, self.spec.chunk)
        held = self._standing(number)
        if held is not None:
            held.begin(chunks, ahead=ahead)
            return
        requests(ahead=ahead).submit(self._begin, number, chunks, ahead=ahead)

    def _begin(self, number: int, chunks: range, *, ahead: bool) -> None:
        self._shard(number)[0].begin(chunks, ahead=ahead)
