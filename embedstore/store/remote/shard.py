"""One shard of a remote store, opened: a local file in which the chunks arrive that are asked for."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import CorruptStoreError, DiskFullError, StoreError
from embedstore.store import files, shard
from embedstore.store.reads import handles
from embedstore.store.reads.chunks import REPAIR, OpenShard
from embedstore.store.remote.requests import requests
from embedstore.store.remote.shard_cache import ShardCache, shard_cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import IntArray
    from embedstore.store.remote.mirror import Mirror

_GAP_BYTES = 64 << 10
# Some chunks, or few large ones; as many requests as there are threads hold that much at once.
_MOST_BYTES = 9 << 18
# A shard that is no larger is brought whole, with its index, by one request.
_WHOLE_BYTES = 1 << 20
_USED_EVERY = 5.0
_PAGE_BYTES = 4096


class RemoteShard(OpenShard):
    """An open shard whose bytes lie elsewhere: as a local one, once `bring` has brought what is read.

    Raises `CorruptStoreError` for a shard that is not there or whose index is damaged, `RemoteError`.
    """

    def __init__(self, mirror: Mirror, name: str, spec: ArraySpec, chunk_bytes: int, where: str) -> None:
        self.handle, self.number, self._direct = -1, -1, [-1]
        # What a cache has not brought yet are holes, and what it gives up may be punched out.
        self._map, self._mapped = None, True
        stat = mirror.shard_stat(name)
        if stat is None:
            raise CorruptStoreError(
                "a shard cannot be opened: it is not there",
                where=f"{mirror.remote.url}: {where}",
                todo=REPAIR,
            )
        self._mirror, self._name, self.size = mirror, name, stat.nbytes
        self._chunks, self._chunk_bytes = spec.shard // spec.chunk, chunk_bytes
        # Another file of the same shard may follow when this one is evicted: each is tested by itself.
        self.tested = np.zeros(self._chunks, np.uint8)
        if self.size < 16 * self._chunks + shard.CRC:
            raise CorruptStoreError(
                "the shard is cut short", where=where, found=f"{self.size} bytes", todo=REPAIR
            )
        self._cache: ShardCache = shard_cache()
        self._path = self._cache.path(mirror.remote.url, name, stat)
        self._process, self._lock = os.getpid(), threading.Lock()
        # What is on its way, and whether it was asked for ahead.
        self._pending: dict[int, tuple[Future[None], bool]] = {}
        self._used = time.monotonic()
        self._open_file()
        self._have = self._read_marks()
        try:
            self._bring_index()
            self.offsets = shard.read_index(
                self.handle,
                chunks=self._chunks,
                chunk_bytes=chunk_bytes,
                where=where,
                todo=REPAIR,
                size=self.size,
            )
        except CorruptStoreError:
            self.drop()
            raise

    def _open_file(self) -> None:
        files.make_folder(self._path.parent)
        try:
            self._make_file(self.size + self._chunks + 1)
        except OSError as bad:
            raise _of_cache(bad, self._path) from bad

    def _make_file(self, wanted: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self.handle = handles.open_file(self._path, flags, 0o600)
        found = os.fstat(self.handle).st_size
        if found not in (0, wanted):
            os.close(self.handle)
            self._path.unlink(missing_ok=True)
            self.handle = handles.open_file(self._path, flags, 0o600)
        os.ftruncate(self.handle, wanted)
        os.utime(self.handle)

    def _read_marks(self) -> bytearray:
        return bytearray(os.pread(self.handle, self._chunks + 1, self.size).ljust(self._chunks + 1, b"\0"))

    def _bring_index(self) -> None:
        if self._have[-1]:
            return
        length = 16 * self._chunks + shard.CRC
        if self.size <= _WHOLE_BYTES:
            self._fetch(0, self.size, range(self._chunks + 1))
        else:
            self._fetch(self.size - length, self.size, [self._chunks])

    def evicted(self) -> bool:
        """Whether the cache has given this file up: what comes into it now would be for nobody else."""
        return os.fstat(self.handle).st_nlink == 0

    def drop(self) -> None:
        """Take the file out of the cache: its bytes are not what they should be."""
        self._path.unlink(missing_ok=True)
        self._mirror.forget_shard(self._name)

    def has(self, chunk: int) -> bool:
        """Whether a chunk is on this machine."""
        return bool(self._have[chunk])

    def bring(self, chunks: Iterable[int]) -> None:
        """Have these chunks on this machine; waits for those that are on their way."""
        waiting = self._ask(chunks, ahead=False)
        for future in waiting:
            future.result()

    def begin(self, chunks: Iterable[int], *, ahead: bool) -> None:
        """Start to bring chunks; `ahead`: for later. A later `bring` meets the same failures again."""
        self._ask(chunks, ahead=ahead)

    def _ask(self, chunks: Iterable[int], *, ahead: bool) -> list[Future[None]]:
        """Futures of all of these chunks that are not here yet."""
        self._touch()
        wanted = [c for c in chunks if not self._have[c] and self.offsets[c] >= 0]
        if not wanted:
            return []
        self._have = bytearray(a | b for a, b in zip(self._have, self._read_marks(), strict=True))
        waiting: set[Future[None]] = set()
        missing = []
        with self._lock:
            for chunk in wanted:
                future, early = self._pending.get(chunk, (None, False))
                # What was asked for ahead and has not begun is brought at once now.
                if future is not None and (ahead or not early or not future.cancel()):
                    waiting.add(future)
                elif not self._have[chunk]:
                    missing.append(chunk)
            for first, stop, some in self._ranges(missing):
                future = requests(ahead=ahead).submit(self._fetch, first, stop, some)
                self._pending |= dict.fromkeys(some, (future, ahead))
                waiting.add(future)
        return list(waiting)

    def _touch(self) -> None:
        """Note the use of the file, and forget what another process had under way before a fork."""
        if self._process != os.getpid():
            self._process, self._lock, self._pending = os.getpid(), threading.Lock(), {}
            self._cache = shard_cache()
        if time.monotonic() - self._used > _USED_EVERY:
            self._used = time.monotonic()
            os.utime(self.handle)

    def _ranges(self, chunks: list[int]) -> list[tuple[int, int, list[int]]]:
        """Byte ranges, each with its chunks: near ones together, up to some MB."""
        length = self._chunk_bytes + shard.CRC
        found: list[tuple[int, int, list[int]]] = []
        for chunk in sorted(chunks, key=lambda c: int(self.offsets[c])):
            first = int(self.offsets[chunk])
            stop = first + length
            if found and first - found[-1][1] <= _GAP_BYTES and stop - found[-1][0] <= _MOST_BYTES:
                found[-1] = (found[-1][0], max(stop, found[-1][1]), [*found[-1][2], chunk])
            else:
                found.append((first, stop, [chunk]))
        return found

    def _fetch(self, first: int, stop: int, chunks: Iterable[int]) -> None:
        """Bring a range of bytes, which holds these chunks whole, and mark them."""
        try:
            data = self._mirror.remote.read_range(self._name, first, stop)
            self._keep(data, first, chunks)
        except FileNotFoundError:
            raise CorruptStoreError(
                "a shard has vanished while it was read",
                where=f"{self._mirror.remote.url}/{self._name}",
                todo="open the store again",
            ) from None
        except OSError as bad:
            raise _of_cache(bad, self._path) from bad
        finally:
            if self._process == os.getpid():
                with self._lock:
                    for chunk in chunks:
                        self._pending.pop(chunk, None)

    def _keep(self, data: bytes, first: int, chunks: Iterable[int]) -> None:
        """Write what came, and only then mark it."""
        # A page is begun at each end, and one of the marks.
        with self._cache.room(len(data) + 3 * _PAGE_BYTES):
            view, at = memoryview(data), first
            while view:
                done = os.pwrite(self.handle, view, at)
                view, at = view[done:], at + done
            for low, high in _runs(chunks):
                marks = b"\1" * (high - low)
                os.pwrite(self.handle, marks, self.size + low)
                self._have[low:high] = marks


def _of_cache(bad: OSError, path: Path) -> StoreError:
    todo = "free some space, or set EMBEDSTORE_CACHE to a folder with more, EMBEDSTORE_CACHE_GB to less"
    kind = DiskFullError if bad.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    return kind(
        f"the cache of remote stores cannot be written: {bad.strerror}", where=path.parent.parent, todo=todo
    )


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last-plus-one of each run of neighbours in ascending numbers."""
    low = high = -1
    for number in numbers:
        if number != high:
            if high > low:
                yield low, high
            low = number
        high = number + 1
    if high > low:
        yield low, high


def chunks_between(first: int, stop: int, size: int) -> range:
    """Inner chunks of `size` places that hold places `[first, stop)`."""
    return range(first // size, -(-stop // size))


def chunks_of(first: IntArray, lengths: IntArray, size: int) -> list[int]:
    """Inner chunks that hold stretches of places, each once."""
    low, high = first // size, (first + lengths - 1) // size
    return sorted({c for a, b in zip(low.tolist(), high.tolist(), strict=True) for c in range(a, b + 1)})
