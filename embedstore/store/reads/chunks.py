"""Places of one sharded array: positioned vector reads straight into the caller's buffer."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

import google_crc32c
import numpy as np

from embedstore.errors import CorruptStoreError, StoreError, UsageError
from embedstore.store import files, geometry, layout, shard
from embedstore.store.reads import handles
from embedstore.store.reads.mapped import FileMap
from embedstore.store.reads.scatter import scatter_tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.reads.pieces import Task

Verify: TypeAlias = Literal["first", "always", "never"]

_TRUSTED_BYTES = 64 << 20
REPAIR = "embedstore verify STORE --repair, then run the command that made the feature again"


def checked_rows(rows: object, count: int, *, of: str) -> IntArray:
    """Rows as int64 `(n,)`, each of the `count` there are; `UsageError`."""
    wanted = np.asarray(rows)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise UsageError("rows must be integers along one axis", found=f"{wanted.dtype} {wanted.shape}")
    if len(wanted) and (int(wanted.min()) < 0 or int(wanted.max()) >= count):
        raise UsageError(
            f"rows outside {of}", found=f"{wanted.min()} to {wanted.max()}", allowed=f"0 to {count - 1}"
        )
    return wanted.astype(np.int64)


class OpenShard:
    """An open shard file with its checked index; closed when nobody holds it any more."""

    def __init__(self, path: Path, spec: ArraySpec, chunk_bytes: int, where: str) -> None:
        self._path = path
        self._direct: list[int] = []
        self._map: FileMap | None = None
        self._mapped = False
        try:
            self.handle = handles.open_file(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError as bad:
            self.handle = -1
            if bad.errno in (errno.EMFILE, errno.ENFILE):
                raise StoreError(
                    "no more files can be opened",
                    where=where,
                    todo="raise the limit (ulimit -n 4096); the store itself is not at fault",
                ) from None
            raise CorruptStoreError(
                f"a shard cannot be opened: {bad.strerror}", where=where, todo=REPAIR
            ) from None
        stat = os.fstat(self.handle)
        self.identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        self.offsets = shard.read_index(
            self.handle, chunks=spec.shard // spec.chunk, chunk_bytes=chunk_bytes, where=where, todo=REPAIR
        )

    def direct(self) -> int:
        """A handle that reads past the page cache, or -1 where the system or the file system has none."""
        # Without a lock, as a map: of two that are opened at once the first is used, and both are closed.
        if not self._direct:
            self._direct.append(self._open_direct() if hasattr(os, "O_DIRECT") else -1)
        return self._direct[0]

    def _open_direct(self) -> int:
        try:
            handle = handles.open_file(self._path, os.O_RDONLY | os.O_DIRECT | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return -1
        if os.path.samestat(os.fstat(handle), os.fstat(self.handle)):
            return handle
        # Another file has taken the name since; the index that was read is not its.
        os.close(handle)
        return -1

    def mapped(self, first: int, stop: int) -> ByteArray | None:
        """The whole file, where its bytes `[first, stop)` can be taken from memory now; else none."""
        # Without a lock, which a fork might find held: where two threads map it at once, one map goes again.
        if not self._mapped:
            self._map = FileMap.of(self.handle)
            self._mapped = True
        found = self._map
        return found.bytes if found is not None and found.in_memory(first, stop) else None

    def is_whole(self) -> bool:
        """Whether a file that is mapped was not cut since."""
        return self._map is None or self._map.is_whole()

    # At the end of a process its modules may be empty before the last shard goes.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for handle in (self.handle, *self._direct):
            if handle >= 0:
                close(handle)


class ShardedArray:
    """One array of a feature, read along its first axis. Thread-safe.

    `verify`: check a chunk's crc32c the first time it is touched, always, or never.
    """

    def __init__(self, feature: Path, spec: ArraySpec, verify: Verify = "first") -> None:
        if verify not in ("first", "always", "never"):
            raise UsageError("bad value of verify", found=verify, allowed="first, always, never")
        self._feature, self.spec, self._mode = feature, spec, verify
        self.dtype = geometry.stored_dtype(spec)
        self.place_bytes = int(np.prod(spec.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.chunk_bytes = self.place_bytes * spec.chunk
        self.chunks_a_shard = spec.shard // spec.chunk
        self._open: dict[int, OpenShard] = {}
        self._checked: ByteArray | None = None
        self._identities: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ShardedArray], tuple[Path, ArraySpec, Verify]]:
        return ShardedArray, (self._feature, self.spec, self._mode)

    def _path(self, number: int) -> str:
        return layout.shard(self.spec.name, number, len(self.spec.shape))

    def _where(self, number: int) -> str:
        return f"{self._feature.name}/{self._path(number)}"

    def shard(self, number: int) -> OpenShard:
        """One shard, open, its index checked; `CorruptStoreError`."""
        # Without a lock: threads wait for the indices of several shards at once, and a fork finds none held.
        found = self._open.get(number)
        if found is not None:
            handles.used_again(self, number)
            return found
        path = layout.inside(layout.store_of(self._feature), self._feature / self._path(number))
        found = OpenShard(path, self.spec, self.chunk_bytes, self._where(number))
        if self._identities.setdefault(number, found.identity) != found.identity:
            # The shard was made again meanwhile: nothing of it has been tested.
            self._marks[number * self.chunks_a_shard : (number + 1) * self.chunks_a_shard] = 0
            self._identities[number] = found.identity
        self._open[number] = found
        handles.used(self, number)
        return found

    def let_go(self, number: int) -> None:
        """Keep a shard open no longer; whoever reads it finishes."""
        self._open.pop(number, None)

    @property
    def _marks(self) -> ByteArray:
        """For every chunk of the array whether its checksum was found right, 1 or 0."""
        if self._checked is None:
            count = -(-self.spec.shape[0] // self.spec.shard) * self.chunks_a_shard
            try:
                self._checked = np.zeros(count, np.uint8)
            except (MemoryError, ValueError):
                raise CorruptStoreError(
                    "the header promises more chunks than there can be",
                    where=self._feature.name + "/" + self.spec.name,
                    found=count,
                    todo=REPAIR,
                ) from None
        return self._checked

    def trusts(self, chunks: IntArray) -> AnyArray:
        """Which chunks, counted through the array, need no test of their checksum; bool."""
        if self._mode == "first":
            known: AnyArray = self._marks[chunks] != 0
            return known
        return np.full(len(chunks), self._mode == "never")

    def test(self, chunk: int, crc: int, stored: ByteArray) -> None:
        """Compare a chunk's crc32c with the stored one; from then on it is trusted. `CorruptStoreError`."""
        if shard.crc_bytes(crc) != stored.tobytes():
            raise self.corrupt("a chunk does not agree with its checksum", chunk)
        self._trust(chunk)

    def _trust(self, chunk: int) -> None:
        self._marks[chunk] = 1

    @property
    def parts(self) -> tuple[tuple[ShardedArray, int], ...]:
        """The arrays that this one is made of, each with its first place: itself."""
        return ((self, 0),)

    @property
    def past_cache(self) -> bool:
        """Whether `direct_io` means something here."""
        return True

    @property
    def whole_chunks(self) -> bool:
        """Whether a part of a chunk costs as much as all of it."""
        return False

    def empty(self, places: int) -> AnyArray:
        """An uninitialised array for that many places."""
        return np.empty((places, *self.spec.shape[1:]), self.dtype)

    def read(self, start: int, stop: int, out: AnyArray | None = None) -> AnyArray:
        """Places `[start, stop)` in the stored dtype, into `out` where it is given (C order, same dtype).

        Raises `UsageError` outside the array and `CorruptStoreError` naming file, chunk and rows.
        """
        if not 0 <= start <= stop <= self.spec.shape[0]:
            raise UsageError(
                f"rows outside {self.spec.name}",
                found=f"[{start}, {stop})",
                allowed=f"[0, {self.spec.shape[0]})",
            )
        if out is None:
            self.refuse_impossible_read(start, stop)
            out = self.empty(stop - start)
        out = self._checked_out(out, stop - start)
        flat = shard.as_bytes(out) if out.size else np.empty(0, np.uint8)
        at = start
        while at < stop and self.place_bytes:
            number, first = divmod(at, self.spec.shard)
            end = min(stop, at - first + self.spec.shard)
            piece = flat[(at - start) * self.place_bytes : (end - start) * self.place_bytes]
            self._read_shard(number, first, first + end - at, piece)
            at = end
        return out

    def _checked_out(self, out: AnyArray, places: int) -> AnyArray:
        shape = (places, *self.spec.shape[1:])
        if (
            out.shape != shape
            or out.dtype != self.dtype
            or not out.flags.c_contiguous
            or not out.flags.writeable
        ):
            raise UsageError(
                f"the buffer does not fit {self.spec.name}",
                found=f"{out.dtype} {out.shape}",
                allowed=f"{self.dtype} {shape}, writable, C order",
            )
        return out

    def _read_shard(self, number: int, first: int, stop: int, out: ByteArray) -> None:
        """Places `[first, stop)` of one shard: chunks read whole where a checksum is to be tested."""
        held, size, place = self.shard(number), self.spec.chunk, self.place_bytes
        begin = number * self.chunks_a_shard
        trusted = self.trusts(begin + np.arange(first // size, -(-stop // size))).tolist()
        pieces: list[tuple[int, ByteArray]] = []
        tests: list[tuple[int, ByteArray, ByteArray]] = []
        copies: list[tuple[ByteArray, ByteArray]] = []
        for chunk, known in enumerate(trusted, first // size):
            low, high = max(first, chunk * size), min(stop, (chunk + 1) * size)
            target = out[(low - first) * place : (high - first) * place]
            offset = int(held.offsets[chunk])
            if offset < 0:
                raise self.corrupt("a chunk is missing", begin + chunk)
            if known:
                pieces.append((offset + (low - chunk * size) * place, target))
                continue
            whole = target if high - low == size else np.empty(self.chunk_bytes, np.uint8)
            if whole is not target:
                at = (low - chunk * size) * place
                copies.append((target, whole[at : at + len(target)]))
            crc = np.empty(shard.CRC, np.uint8)
            pieces += [(offset, whole), (offset + self.chunk_bytes, crc)]
            tests.append((begin + chunk, whole, crc))
        if not files.read_pieces(held.handle, pieces):
            raise self.corrupt("the shard is cut short", begin + first // size)
        for chunk, whole, crc in tests:
            self.test(chunk, google_crc32c.value(whole), crc)
        for target, source in copies:
            target[:] = source

    def corrupt(self, problem: str, chunk: int) -> CorruptStoreError:
        """An error about a chunk, counted through the array: its shard, its number there, its rows."""
        number, local = divmod(chunk, self.chunks_a_shard)
        first = chunk * self.spec.chunk
        unit = (
            "token places"
            if self.spec.shape[0] and self.spec.name == "tokens" and len(self.spec.shape) == 2
            else "rows"
        )
        return CorruptStoreError(
            problem,
            where=self._where(number),
            found=f"chunk {local}: {unit} {first} to {first + self.spec.chunk - 1}",
            todo=REPAIR,
        )

    def gather(self, places: IntArray, out: AnyArray | None = None) -> AnyArray:
        """Any places in any order, repeats allowed; neighbours are read together."""
        wanted, out = self.wanted(places, out)
        order = np.argsort(wanted, kind="stable")
        for task in self.scatter(wanted[order], None, order, out):
            task()
        return out

    def scatter(
        self,
        starts: IntArray,
        lengths: IntArray | None,
        targets: IntArray,
        out: AnyArray,
        *,
        direct_io: bool = False,
    ) -> list[Task]:
        """What brings ascending stretches of places, each in one shard, to `out[targets[i]:]`."""
        return scatter_tasks(self, starts, lengths, targets, out, direct_io=direct_io)

    def wanted(self, places: IntArray, out: AnyArray | None) -> tuple[IntArray, AnyArray]:
        """Places as int64 and room for them, both checked; `UsageError`."""
        wanted = checked_rows(places, self.spec.shape[0], of=self.spec.name)
        if out is None:
            self.refuse_impossible(wanted, np.ones_like(wanted))
            out = self.empty(len(wanted))
        return wanted, self._checked_out(out, len(wanted))

    def refuse_impossible(self, starts: IntArray, lengths: IntArray) -> None:
        """`CorruptStoreError` where stretches of places are longer than the shards they would come from.

        The shape of an array stands in a document, which may say anything: before much memory is taken for
        stretches, each in one shard, the real sizes of these shards are looked at.
        """
        if int(lengths.sum()) * self.place_bytes <= _TRUSTED_BYTES:
            return
        numbers = starts // self.spec.shard
        order = np.argsort(numbers, kind="stable")
        several, first = np.unique(numbers[order], return_index=True)
        for number, longest in zip(several, np.maximum.reduceat(lengths[order], first), strict=True):
            self._refuse_short(int(number), int(longest))

    def refuse_impossible_read(self, start: int, stop: int) -> None:
        """The same for places that follow each other, shard by shard up to the first that is too short."""
        if (stop - start) * self.place_bytes <= _TRUSTED_BYTES:
            return
        at = start
        while at < stop:
            number, first = divmod(at, self.spec.shard)
            end = min(stop, at - first + self.spec.shard)
            self._refuse_short(number, end - at)
            at = end

    def _refuse_short(self, number: int, places: int) -> None:
        size = self._file_bytes(number)
        if places * self.place_bytes > size:
            raise CorruptStoreError(
                "the header promises more than the shard holds",
                where=self._where(number),
                found=f"{size} bytes",
                allowed=f"{places} places of {self.place_bytes} bytes",
                todo=REPAIR,
            )

    def _file_bytes(self, number: int) -> int:
        """Size of a shard's file, 0 where there is none."""
        path = self._feature / self._path(number)
        return path.stat().st_size if path.is_file() else 0

    def in_memory(self, place: int) -> bool:
        """Whether a place can be read without waiting for the disk, as far as the system tells."""
        number, first = divmod(place, self.spec.shard)
        held = self.shard(number)
        return files.in_memory(held.handle, int(held.offsets[first // self.spec.chunk]))

    def advise(self, start: int, stop: int) -> None:
        """Ask the kernel to bring the chunks of places `[start, stop)` of one shard into memory soon."""
        number, first = divmod(start, self.spec.shard)
        held = self.shard(number)
        last = stop - 1 - number * self.spec.shard
        offsets = held.offsets[first // self.spec.chunk : last // self.spec.chunk + 1]
        slot = shard.slot_bytes(self.chunk_bytes)
        low, high = int(offsets.min()), int(offsets.max()) + slot
        # Chunks in another order than ours may lie anywhere in the file: no advice is better than too much.
        if low >= 0 and high - low <= len(offsets) * slot:
            files.advise(held.handle, low, high)
