"""Check one work unit: its record, every byte of its files, and what its arrays say about its rows."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from embedstore.errors import CorruptStoreError
from embedstore.store import geometry, journal, layout, shard
from embedstore.store.checks.report import Finding
from embedstore.store.coding.coder import whole_rows
from embedstore.store.crc import combine
from embedstore.store.reads.chunks import ShardedArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embedstore.documents import ArrayName, ArraySpec, FeatureHeader, ShardFile, UnitRecord
    from embedstore.shapes import AnyArray, ByteArray, IntArray
    from embedstore.store.checks.sample import Sample

READ_BYTES = 8 << 20
_CHANGED = "the bytes are not the recorded ones"
_rooms = threading.local()


@dataclass(kw_only=True)
class UnitResult:
    """What one unit came to. `nbytes` of its files, `nbytes_read` of them; `chunks` and those `tested`."""

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    nbytes: int = 0
    nbytes_read: int = 0
    chunks: int = 0
    tested: int = 0

    def count(self, other: UnitResult) -> None:
        """Add the numbers of another unit; findings are handed over by themselves."""
        self.files += other.files
        self.nbytes += other.nbytes
        self.nbytes_read += other.nbytes_read
        self.chunks += other.chunks
        self.tested += other.tested


class UnitCheck:
    """Checks units of one feature; every call stands alone, so threads may share it.

    `sample`: the chunks to be read, none for all. `id_of` gives the id of a row of the feature's table.
    """

    def __init__(
        self, folder: Path, header: FeatureHeader, id_of: Callable[[int], str], sample: Sample | None = None
    ) -> None:
        self._folder, self._header, self._id_of, self._sample = folder, header, id_of, sample
        self._fingerprint = header.fingerprint

    def __call__(self, record: UnitRecord) -> UnitResult:
        """Everything that one unit promises."""
        result = UnitResult()
        if not journal.fits(self._header, self._fingerprint, record, record.unit):
            where = layout.record(self._folder, record.unit).name
            result.findings.append(self.damaged(record.unit, where, "the record is of another feature"))
            return result
        for file, spec in itertools.zip_longest(record.files, self._header.arrays):
            problem = self._file(file, spec, record, result)
            if problem:
                result.findings.append(self.damaged(record.unit, file.path, problem))
        if not result.findings and (self._sample is None or self._sample.rows(self._header, record.unit)):
            for path, problem in self._rows(record):
                result.findings.append(self.damaged(record.unit, path, problem))
        return result

    def damaged(self, unit: int, path: str, problem: str) -> Finding:
        """A finding about a file of a unit."""
        where = f"{layout.FEATURES}/{self._header.name}/{path}"
        return Finding(kind="corrupt", where=where, problem=problem, feature=self._header.name, unit=unit)

    def _file(
        self, file: ShardFile, spec: ArraySpec | None, record: UnitRecord, result: UnitResult
    ) -> str | None:
        path = self._folder / file.path
        try:
            there = layout.of_feature(self._folder, file.path).is_file() and not path.is_symlink()
        except CorruptStoreError as bad:
            return bad.problem
        if not there:
            return "the file is missing"
        result.files += 1
        size = path.stat().st_size
        result.nbytes += size
        if size != file.nbytes:
            return f"{size} bytes, the record says {file.nbytes}"
        if spec is None or file.index_crc32c is None:
            return self._plain(path, file, record, result)
        if shard.stored_index_crc(path) != file.index_crc32c:
            return "the index checksum is not the recorded one"
        return self._shard(path, file, spec, record, result)

    def _plain(self, path: Path, file: ShardFile, record: UnitRecord, result: UnitResult) -> str | None:
        if self._sample is not None and not self._sample.file(self._header, record.unit):
            return None
        result.nbytes_read += file.nbytes
        return None if shard.file_crc(path) == file.crc32c else _CHANGED

    def _shard(
        self, path: Path, file: ShardFile, spec: ArraySpec, record: UnitRecord, result: UnitResult
    ) -> str | None:
        array = ShardedArray(self._folder, spec, verify="always")
        used = geometry.unit_shape(self._header, spec, record.unit, tokens=record.tokens)[0]
        chunks = -(-used // spec.chunk)
        result.chunks += chunks
        if self._sample is not None:
            chosen = self._sample.chunks(self._header, spec, record.unit, chunks)
            result.tested += len(chosen)
            result.nbytes_read += len(chosen) * (array.place_bytes * spec.chunk + shard.CRC)
            return _read_chunks(array, record.unit, used, chosen)
        result.tested += chunks
        result.nbytes_read += file.nbytes
        whole = _whole_crc(path, spec, place_bytes=array.place_bytes, chunks=chunks)
        if whole == file.crc32c:
            return None
        # Something is wrong, or the chunks lie in an order that is not ours: look at each, to name the rows.
        problem = _read_chunks(array, record.unit, used, np.arange(chunks))
        return problem or (None if shard.file_crc(path) == file.crc32c else _CHANGED)

    def _rows(self, record: UnitRecord) -> Iterator[tuple[str, str]]:
        """Status, quarantine, lengths and embeddings of one unit must tell the same story."""
        header = self._header
        start, stop = record.rows

        def read(spec: ArraySpec) -> AnyArray:
            return ShardedArray(self._folder, spec, verify="never").read(start, stop)

        status = read(_spec(header, "status"))
        listed = np.zeros(stop - start, np.uint8)
        listed[[q.row - start for q in record.quarantined]] = 1
        path = layout.shard("status", record.unit, 1)
        if not np.array_equal(status, listed):
            yield path, "status and quarantine do not agree"
        for q in record.quarantined:
            if self._id_of(q.row) != q.id:
                yield path, f"quarantined row {q.row} has the id {q.id!r}, the table says otherwise"
        pooled: dict[ArrayName, AnyArray] = {
            a.name: read(a) for a in header.arrays if a.name in ("pooled", "pooled_scales")
        }
        if not np.array_equal(whole_rows(header, pooled), listed == 0):
            yield layout.shard("pooled", record.unit, 2), "rows without numbers are not the quarantined ones"
        if header.array("lengths") is not None:
            lengths = read(_spec(header, "lengths"))
            if int(lengths.sum()) != record.tokens or lengths[listed == 1].any() or (lengths < 0).any():
                yield layout.shard("lengths", record.unit, 1), "lengths do not add up to the unit's tokens"


def _spec(header: FeatureHeader, name: str) -> ArraySpec:
    return next(a for a in header.arrays if a.name == name)


def _read_chunks(array: ShardedArray, unit: int, used: int, chunks: IntArray) -> str | None:
    """Read whole chunks of one shard with their checksums; the first problem, with its rows."""
    size, first = array.spec.chunk, unit * array.spec.shard
    try:
        for chunk in chunks.tolist():
            array.read(first + chunk * size, first + min(used, (chunk + 1) * size))
    except CorruptStoreError as bad:
        return f"{bad.problem}: {bad.found}" if bad.found else bad.problem
    return None


def _room() -> ByteArray:
    """A buffer of this thread, used again and again."""
    if not hasattr(_rooms, "room"):
        _rooms.room = np.empty(READ_BYTES, np.uint8)
    room: ByteArray = _rooms.room
    return room


def _whole_crc(path: Path, spec: ArraySpec, *, place_bytes: int, chunks: int) -> int | None:
    """crc32c of a shard whose chunks stand in order, each tested on the way; none where one is not right.

    Every byte is read once and summed once: the sum of the file follows from the sums of its chunks.
    """
    step = place_bytes * spec.chunk
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        offsets = shard.read_index(
            handle, chunks=spec.shard // spec.chunk, chunk_bytes=step, where=path.name, todo=""
        )
        present = np.arange(chunks, dtype=np.int64) * shard.slot_bytes(step)
        if not (np.array_equal(offsets[:chunks], present) and (offsets[chunks:] < 0).all()):
            return None
        whole = _sum_chunks(handle, chunks, step)
        if whole is None:
            return None
        at = chunks * shard.slot_bytes(step)
        rest = shard.read_exactly(handle, 16 * len(offsets) + shard.CRC + 1, at)
        return int(google_crc32c.extend(whole, rest))
    except CorruptStoreError:
        return None
    finally:
        os.close(handle)


def _sum_chunks(handle: int, chunks: int, step: int) -> int | None:
    """crc32c over all chunks with their checksums, read several at once; none where one does not agree."""
    stride = shard.slot_bytes(step)
    many = max(1, READ_BYTES // stride)
    room = _room() if stride <= READ_BYTES else np.empty(stride, np.uint8)
    whole = 0
    for first in range(0, chunks, many):
        part = room[: min(many, chunks - first) * stride]
        if not _fill(handle, part, first * stride):
            return None
        for at in range(0, len(part), stride):
            crc = google_crc32c.value(part[at : at + step])
            tail = part[at + step : at + stride].tobytes()
            if shard.crc_bytes(crc) != tail[: shard.CRC]:
                return None
            whole = google_crc32c.extend(combine(whole, crc, step), tail)
    return whole


def _fill(handle: int, room: ByteArray, offset: int) -> bool:
    view = memoryview(room)  # type: ignore[arg-type]  # arrays are buffers
    done = 0
    while done < len(view):
        got = os.preadv(handle, [view[done:]], offset + done)
        if not got:
            return False
        done += got
    return True
