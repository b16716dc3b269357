"""How fast memory and a disk are, measured in a second or two with what a store does to them."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PIECE = 8 << 20
_SECONDS = 0.4
_MOST_BYTES = 1 << 30
_COPIED = 64 << 20


@dataclass(frozen=True, kw_only=True)
class DiskRates:
    """Of the disk of one folder, bytes and bytes a second.

    `write` with the flush at the end; `read_cold` past the page cache, none where the system cannot leave it;
    `read_warm` from the page cache. `flush`: seconds for one small file to be safe. `links`: whether hard
    links can be made.
    """

    folder: str
    free: int
    write: float
    read_cold: float | None
    read_warm: float
    flush: float
    links: bool


def measure_memory() -> float:
    """Bytes a second that one thread copies."""
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
    np.copyto(target, source)
    return _COPIED / _best(lambda: np.copyto(target, source))


def measure_disk(folder: Path) -> DiskRates:
    """Write, flush and read a file of at most 1 GB in `folder`, and remove it.

    A folder that is not there yet is not made: the nearest one above it is measured. Raises `StoreError`
    where nothing can be written there.
    """
    folder = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    # As everywhere in a store: a temporary name of its own, so that several may measure at once.
    name = layout.temporary(folder / "doctor")
    try:
        return _measure(folder, name)
    finally:
        for path in (name, name.with_name(name.name + ".link"), name.with_name(name.name + ".small")):
            path.unlink(missing_ok=True)


def _measure(folder: Path, name: Path) -> DiskRates:
    free = shutil.disk_usage(folder).free
    most = max(_PIECE, min(_MOST_BYTES, free // 4))
    piece = np.random.default_rng(0).integers(0, 256, _PIECE, np.uint8)
    written = 0

    def write(handle: int) -> None:
        nonlocal written
        while time.perf_counter() - began < _SECONDS and written + _PIECE <= most:
            files.write_pieces(handle, [piece])
            written += _PIECE

    began = time.perf_counter()
    files.write_temporary(name, write).replace(name)
    write_rate = written / (time.perf_counter() - began)
    cold = _read(name, cold=True) if hasattr(os, "posix_fadvise") else None
    _read(name)
    warm = _read(name)
    small = name.with_name(name.name + ".small")
    began = time.perf_counter()
    files.write_temporary(small, lambda handle: files.write_pieces(handle, [b"x"])).replace(small)
    flush = time.perf_counter() - began
    return DiskRates(
        folder=str(folder),
        free=free,
        write=write_rate,
        read_cold=cold,
        read_warm=warm,
        flush=flush,
        links=_can_link(name),
    )


def _read(name: Path, *, cold: bool = False) -> float:
    """Bytes a second of one read from the beginning, for a while."""
    buffer = bytearray(_PIECE)
    handle = os.open(name, os.O_RDONLY)
    try:
        if cold:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        began, got = time.perf_counter(), 0
        while time.perf_counter() - began < _SECONDS and (more := os.preadv(handle, [buffer], got)):
            got += more
        return got / (time.perf_counter() - began)
    finally:
        os.close(handle)


def _can_link(name: Path) -> bool:
    try:
        os.link(name, name.with_name(name.name + ".link"))
    except OSError:
        return False
    return True


def _best(work: Callable[[], None], *, times: int = 5) -> float:
    """Seconds of the quickest of several."""
    marks = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        marks.append(time.perf_counter() - began)
    return min(marks)
