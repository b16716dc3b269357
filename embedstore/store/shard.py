"""One shard file of a Zarr v3 array (`sharding_indexed`, inner codecs `bytes, crc32c`): write, parse.

Layout: inner chunks in order, each followed by its crc32c and zeros up to a multiple of 64 bytes; then for
every inner chunk its offset and number of bytes with the checksum (two little-endian uint64, both 2^64-1
where the chunk is absent); then the crc32c of that index. Only the first axis is cut, so inner chunk i holds
places [i*chunk, (i+1)*chunk) of the shard.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from embedstore.errors import CorruptStoreError, StorageValueError, StoreError
from embedstore.store import files
from embedstore.store.crc import combine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedstore.shapes import AnyArray, ByteArray

CRC = 4
# Chunks begin where cache lines do: the kernel copies others at half the speed.
ALIGN = 64
MOST_GAP = CRC + ALIGN - 1
ABSENT = np.uint64(2**64 - 1)


def slot_bytes(chunk_bytes: int) -> int:
    """Bytes from one inner chunk to the next: its data, its crc32c, and zeros that align the next."""
    return -(-(chunk_bytes + CRC) // ALIGN) * ALIGN


def crc_bytes(crc: int) -> bytes:
    """A crc32c as it stands in a file: little-endian."""
    return crc.to_bytes(CRC, "little")


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What one shard file became: size, crc32c of the whole file and of its index."""

    nbytes: int
    crc32c: int
    index_crc32c: int


def as_bytes(array: AnyArray) -> ByteArray:
    """A flat uint8 view of a contiguous array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Assembly:
    """The pieces of a shard file, made one after the other while they are taken; then `written` is known.

    Cuts `data` `(used, ...)` into inner chunks of `chunk` places of a shard of `places`. The last chunk is
    padded with `fill` (a scalar of the same dtype); chunks past `used` are absent. Only a padded chunk is
    copied. Raises `StorageValueError` where `data` has more places than the shard.
    """

    def __init__(self, data: AnyArray, *, places: int, chunk: int, fill: AnyArray) -> None:
        if len(data) > places or places % chunk:
            raise StorageValueError(
                "rows do not fit the shard", found=len(data), allowed=f"{places}, chunks of {chunk}"
            )
        self._data, self._places, self._chunk, self._fill = data, places, chunk, fill
        self.written: WrittenShard | None = None

    def __iter__(self) -> Iterator[ByteArray | bytes]:
        data, chunk = self._data, self._chunk
        index = np.full((self._places // chunk, 2), ABSENT, dtype="<u8")
        whole, offset = 0, 0
        for number, first in enumerate(range(0, len(data), chunk)):
            flat = as_bytes(self._padded(data[first : first + chunk]))
            crc = google_crc32c.value(flat)
            slot = slot_bytes(len(flat))
            tail = crc_bytes(crc).ljust(slot - len(flat), b"\0")
            whole = google_crc32c.extend(combine(whole, crc, len(flat)), tail)
            yield flat
            yield tail
            index[number] = offset, len(flat) + CRC
            offset += slot
        table = index.tobytes()
        index_crc = google_crc32c.value(table)
        end = table + crc_bytes(index_crc)
        yield end
        self.written = WrittenShard(offset + len(end), google_crc32c.extend(whole, end), index_crc)

    def _padded(self, values: AnyArray) -> AnyArray:
        if len(values) == self._chunk:
            return values
        padded = np.full((self._chunk, *values.shape[1:]), self._fill, dtype=values.dtype)
        padded[: len(values)] = values
        return padded


def write(
    final: Path, data: AnyArray, *, places: int, chunk: int, fill: AnyArray
) -> tuple[Path, WrittenShard]:
    """Write a shard in one pass under a temporary name beside `final`; the caller flushes and renames it.

    A chunk is written while it is still in the processor's cache from its checksum.
    """
    made = Assembly(data, places=places, chunk=chunk, fill=fill)
    name = files.write_temporary(final, lambda handle: files.write_stream(handle, made), flush=False)
    if made.written is None:
        raise StoreError("a shard was not written to its end", where=final.name)
    return name, made.written


def read_exactly(handle: int, nbytes: int, offset: int) -> bytes:
    """A positioned read that loops on short reads; shorter only at the end of the file."""
    got = bytearray()
    while len(got) < nbytes:
        more = os.pread(handle, nbytes - len(got), offset + len(got))
        if not more:
            break
        got += more
    return bytes(got)


def stored_index_crc(path: Path) -> int | None:
    """The last four bytes of a shard, its index checksum; none where the file is too short."""
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        return int.from_bytes(read_exactly(handle, CRC, size - CRC), "little") if size >= CRC else None
    finally:
        os.close(handle)


def file_crc(path: Path) -> int:
    """crc32c of a whole file, read in pieces of a few MB."""
    crc = 0
    with path.open("rb") as source:
        while piece := source.read(4 << 20):
            crc = google_crc32c.extend(crc, piece)
    return int(crc)


def read_index(
    handle: int, *, chunks: int, chunk_bytes: int, where: str, todo: str, size: int | None = None
) -> AnyArray:
    """Offsets `(chunks,)` int64 of a shard's inner chunks, -1 where absent.

    The index must agree with its checksum, every chunk must have the size that the array's shape gives,
    and lie inside the file, of which the first `size` bytes count where that is given; `CorruptStoreError`
    otherwise. Nothing is allocated from sizes in the file.
    """
    size = os.fstat(handle).st_size if size is None else size
    length = 16 * chunks
    if size < length + CRC:
        raise CorruptStoreError(
            "the shard is cut short",
            where=where,
            found=f"{size} bytes",
            allowed=f"{length + CRC} at least",
            todo=todo,
        )
    raw = read_exactly(handle, length + CRC, size - length - CRC)
    if len(raw) != length + CRC or google_crc32c.value(raw[:length]) != int.from_bytes(
        raw[length:], "little"
    ):
        raise CorruptStoreError("the shard's index does not agree with its checksum", where=where, todo=todo)
    table = np.frombuffer(raw, dtype="<u8", count=2 * chunks).reshape(chunks, 2)
    absent = (table == ABSENT).all(axis=1)
    limit = size - length - CRC - chunk_bytes - CRC
    good = (table[:, 1] == chunk_bytes + CRC) & (table[:, 0] <= np.uint64(max(limit, 0))) & (limit >= 0)
    if not (absent | good).all():
        bad = int(np.flatnonzero(~(absent | good))[0])
        raise CorruptStoreError(
            f"chunk {bad} of the shard lies outside the file or has a wrong size",
            where=where,
            found=f"offset {table[bad, 0]}, {table[bad, 1]} bytes, file of {size}",
            todo=todo,
        )
    return np.where(absent, np.int64(-1), table[:, 0].astype(np.int64))
