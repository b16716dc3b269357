"""Places of one sharded array: positioned vector reads straight into the caller's buffer."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

import google_crc32c
import numpy as np

from embedstore.errors import CorruptStoreError, StoreError, UsageError
from embedstore.store import files, geometry, handles, layout, shard

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import ArraySpec
    from embedstore.shapes import AnyArray, ByteArray, IntArray

Verify: TypeAlias = Literal["first", "always", "never"]

_GAP_BYTES = 16 << 10
_SPAN_BYTES = 2 << 20
_VECTOR_BYTES = 16 << 10
_TRUSTED_BYTES = 64 << 20
REPAIR = "embedstore verify STORE --repair, then run the command that made the feature again"


class _OpenShard:
    """An open shard file with its checked index; closed when nobody holds it any more."""

    def __init__(self, path: Path, spec: ArraySpec, chunk_bytes: int, where: str) -> None:
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
        self.offsets = shard.read_index(
            self.handle, chunks=spec.shard // spec.chunk, chunk_bytes=chunk_bytes, where=where, todo=REPAIR
        )

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


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
        self._chunk_bytes = self.place_bytes * spec.chunk
        self._open: dict[int, _OpenShard] = {}
        self._checked: dict[int, bytearray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ShardedArray], tuple[Path, ArraySpec, Verify]]:
        return ShardedArray, (self._feature, self.spec, self._mode)

    def _path(self, number: int) -> str:
        return layout.shard(self.spec.name, number, len(self.spec.shape))

    def _where(self, number: int) -> str:
        return f"{self._feature.name}/{self._path(number)}"

    def _shard(self, number: int) -> tuple[_OpenShard, bytearray]:
        with self._lock:
            found = self._open.get(number)
        if found is None:
            # Outside the lock: several threads wait for the indices of several shards at once.
            path = layout.inside(layout.store_of(self._feature), self._feature / self._path(number))
            found = _OpenShard(path, self.spec, self._chunk_bytes, self._where(number))
        with self._lock:
            self._open[number] = found
            checked = self._checked.get(number)
            if checked is None:
                checked = self._checked[number] = bytearray(self.spec.shard // self.spec.chunk)
        handles.used(self, number)
        return found, checked

    def let_go(self, number: int) -> None:
        """Keep a shard open no longer; whoever reads it finishes."""
        self._open.pop(number, None)

    @property
    def parts(self) -> tuple[tuple[ShardedArray, int], ...]:
        """The arrays that this one is made of, each with its first place: itself."""
        return ((self, 0),)

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
        held, checked = self._shard(number)
        size, place = self.spec.chunk, self.place_bytes
        pieces: list[tuple[int, ByteArray]] = []
        tests: list[tuple[int, ByteArray, ByteArray]] = []
        copies: list[tuple[ByteArray, ByteArray]] = []
        for chunk in range(first // size, -(-stop // size)):
            low, high = max(first, chunk * size), min(stop, (chunk + 1) * size)
            target = out[(low - first) * place : (high - first) * place]
            offset = int(held.offsets[chunk])
            if offset < 0:
                raise self._corrupt("a chunk is missing", number, chunk)
            if self._mode == "never" or (self._mode == "first" and checked[chunk]):
                pieces.append((offset + (low - chunk * size) * place, target))
                continue
            whole = target if high - low == size else np.empty(self._chunk_bytes, np.uint8)
            if whole is not target:
                at = (low - chunk * size) * place
                copies.append((target, whole[at : at + len(target)]))
            crc = np.empty(shard.CRC, np.uint8)
            pieces += [(offset, whole), (offset + self._chunk_bytes, crc)]
            tests.append((chunk, whole, crc))
        if not files.read_pieces(held.handle, pieces):
            raise self._corrupt("the shard is cut short", number, first // size)
        for chunk, whole, crc in tests:
            if shard.crc_bytes(google_crc32c.value(whole)) != crc.tobytes():
                raise self._corrupt("a chunk does not agree with its checksum", number, chunk)
            checked[chunk] = 1
        for target, source in copies:
            target[:] = source

    def _corrupt(self, problem: str, number: int, chunk: int) -> CorruptStoreError:
        first = number * self.spec.shard + chunk * self.spec.chunk
        unit = (
            "token places"
            if self.spec.shape[0] and self.spec.name == "tokens" and len(self.spec.shape) == 2
            else "rows"
        )
        return CorruptStoreError(
            problem,
            where=self._where(number),
            found=f"chunk {chunk}: {unit} {first} to {first + self.spec.chunk - 1}",
            todo=REPAIR,
        )

    def gather(self, places: IntArray, out: AnyArray | None = None) -> AnyArray:
        """Any places in any order, repeats allowed; neighbours are read together."""
        wanted, out = self.wanted(places, out)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        for low, high in self.spans(ascending):
            self.fill(ascending[low:high], order[low:high], out)
        return out

    def wanted(self, places: IntArray, out: AnyArray | None) -> tuple[IntArray, AnyArray]:
        """Places as int64 and room for them, both checked; `UsageError`."""
        wanted = np.asarray(places)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise UsageError("rows must be integers along one axis", found=f"{wanted.dtype} {wanted.shape}")
        if len(wanted) and (int(wanted.min()) < 0 or int(wanted.max()) >= self.spec.shape[0]):
            raise UsageError(
                f"rows outside {self.spec.name}",
                found=f"{wanted.min()} to {wanted.max()}",
                allowed=f"0 to {self.spec.shape[0] - 1}",
            )
        wanted = wanted.astype(np.int64)
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
        path = self._feature / self._path(number)
        size = path.stat().st_size if path.is_file() else 0
        if places * self.place_bytes > size:
            raise CorruptStoreError(
                "the header promises more than the shard holds",
                where=self._where(number),
                found=f"{size} bytes",
                allowed=f"{places} places of {self.place_bytes} bytes",
                todo=REPAIR,
            )

    def spans(self, ascending: IntArray, *, gap: int = _GAP_BYTES) -> list[tuple[int, int]]:
        """Slices of ascending places that belong together: one shard, gaps of at most `gap` bytes, 2 MB."""
        if not len(ascending):
            return []
        place = max(1, self.place_bytes)
        apart = np.diff(ascending) > 1 + gap // place
        other = np.diff(ascending // self.spec.shard) != 0
        breaks = (np.flatnonzero(apart | other) + 1).tolist()
        most = max(1, _SPAN_BYTES // place)
        spans: list[tuple[int, int]] = []
        for low, high in zip([0, *breaks], [*breaks, len(ascending)], strict=True):
            at = low
            while ascending[high - 1] - ascending[at] >= most:
                end = int(np.searchsorted(ascending, ascending[at] + most))
                spans.append((at, end))
                at = end
            spans.append((at, high))
        return spans

    def fill(self, places: IntArray, targets: IntArray, out: AnyArray) -> None:
        """`out[targets[i]]` becomes place `places[i]`, for the ascending places of one span."""
        first, stop = int(places[0]), int(places[-1]) + 1
        if self.place_bytes >= _VECTOR_BYTES:
            if len(places) == 1 and self._read_one(first, out[int(targets[0])]):
                return
            self.read_segments(places, np.ones(len(places), np.int64), targets, out)
        else:
            out[targets] = self.read(first, stop)[places - first]

    def _read_one(self, at: int, row: AnyArray) -> bool:
        """One place straight into its row; False where that needs more than one plain read."""
        number, local = divmod(at, self.spec.shard)
        held, checked = self._shard(number)
        chunk, skip = divmod(local, self.spec.chunk)
        offset = int(held.offsets[chunk])
        if offset < 0 or self._tests(checked, chunk):
            return False
        buffers = [memoryview(row)]  # type: ignore[arg-type]  # arrays are buffers
        return os.preadv(held.handle, buffers, offset + skip * self.place_bytes) == self.place_bytes

    def read_segments(self, starts: IntArray, lengths: IntArray, targets: IntArray, out: AnyArray) -> None:
        """Stretches of places of one shard, by their `starts (n,)` ascending, to `out[targets[i]:]`.

        None is empty. Stretches that are neighbours in the file share one vector read. A chunk whose checksum
        is still to be tested is read whole beside `out`.
        """
        number = int(starts[0]) // self.spec.shard
        held, checked = self._shard(number)
        local, size, place = starts - number * self.spec.shard, self.spec.chunk, self.place_bytes
        chunk = local // size
        offsets = held.offsets[chunk]
        plain = (chunk == (local + lengths - 1) // size) & (offsets >= 0)
        if self._mode != "never":
            plain &= self._mode == "first" and np.frombuffer(checked, np.uint8)[chunk] != 0
        flat = shard.as_bytes(out)
        if not plain.all():
            self.advise(int(starts[0]), int(starts[-1] + lengths[-1]))
            self._read_tested(number, local[~plain], lengths[~plain], targets[~plain], flat)
        begin = offsets[plain] + (local - chunk * size)[plain] * place
        if not files.read_scattered(held.handle, begin, lengths[plain] * place, targets[plain] * place, flat):
            raise self._corrupt("the shard is cut short", number, int(chunk[0]))

    def _read_tested(
        self, number: int, local: IntArray, lengths: IntArray, targets: IntArray, flat: ByteArray
    ) -> None:
        """Stretches of one shard by way of whole chunks, tested where that is still to be done."""
        held, checked = self._shard(number)
        place, size = self.place_bytes, self.spec.chunk
        loaded, whole = -1, np.empty(self._chunk_bytes + shard.CRC, np.uint8)
        for at, length, target in zip(local.tolist(), lengths.tolist(), targets.tolist(), strict=True):
            first, to = at, target * place
            while first < at + length:
                chunk, skip = divmod(first, size)
                step = min(at + length - first, size - skip)
                if chunk != loaded:
                    self._load(held, number, chunk, whole, test=self._tests(checked, chunk))
                    loaded, checked[chunk] = chunk, 1
                flat[to : to + step * place] = whole[skip * place : (skip + step) * place]
                first, to = first + step, to + step * place

    def _tests(self, checked: bytearray, chunk: int) -> bool:
        return self._mode == "always" or (self._mode == "first" and not checked[chunk])

    def _load(self, held: _OpenShard, number: int, chunk: int, room: ByteArray, *, test: bool) -> None:
        """One whole chunk with its checksum behind it into `room`."""
        offset = int(held.offsets[chunk])
        if offset < 0:
            raise self._corrupt("a chunk is missing", number, chunk)
        if not files.read_pieces(held.handle, [(offset, room)]):
            raise self._corrupt("the shard is cut short", number, chunk)
        data, crc = room[: self._chunk_bytes], room[self._chunk_bytes :]
        if test and shard.crc_bytes(google_crc32c.value(data)) != crc.tobytes():
            raise self._corrupt("a chunk does not agree with its checksum", number, chunk)

    def in_memory(self, place: int) -> bool:
        """Whether a place can be read without waiting for the disk, as far as the system tells."""
        number, first = divmod(place, self.spec.shard)
        held, _ = self._shard(number)
        return files.in_memory(held.handle, int(held.offsets[first // self.spec.chunk]))

    def advise(self, start: int, stop: int) -> None:
        """Ask the kernel to bring the chunks of places `[start, stop)` of one shard into memory soon."""
        number, first = divmod(start, self.spec.shard)
        held, _ = self._shard(number)
        last = stop - 1 - number * self.spec.shard
        offsets = held.offsets[first // self.spec.chunk : last // self.spec.chunk + 1]
        low, high = int(offsets.min()), int(offsets.max()) + self._chunk_bytes + shard.CRC
        # Chunks in another order than ours may lie anywhere in the file: no advice is better than too much.
        if low >= 0 and high - low <= len(offsets) * (self._chunk_bytes + shard.CRC):
            files.advise(held.handle, low, high)
