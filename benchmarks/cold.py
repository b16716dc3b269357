"""Cold files: dropped from the page cache, and proved to be gone, before a measurement."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from common import Paired, timed

from embedstore.store.reads import handles

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_RESIDENT = 0.01


def files_below(place: Path) -> list[Path]:
    """A file, or every file below a folder."""
    if place.is_file():
        return [place]
    return [Path(here, name) for here, _, names in os.walk(place) for name in names]


def resident_share(place: Path) -> float:
    """Share of the pages of a file or folder that are in the page cache, by `mincore`."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = resident = 0
    for path in files_below(place):
        size = path.stat().st_size
        if not size:
            continue
        count = -(-size // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * count)()
        with path.open("rb") as source:
            address = _map(libc, source.fileno(), size)
            if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), states):
                raise OSError(ctypes.get_errno(), "mincore failed", str(path))
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
        pages += count
        resident += sum(state & 1 for state in bytes(states))
    return resident / pages if pages else 0.0


def _map(libc: ctypes.CDLL, handle: int, size: int) -> int:
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    if address in {None, ctypes.c_void_p(-1).value}:
        raise OSError(ctypes.get_errno(), "mmap failed")
    return int(address)


def make_cold(place: Path) -> None:
    """Drop a file or folder from the page cache; ends the benchmark where over 1 % stays."""
    # What somebody has mapped stays in memory.
    handles.let_go_all()
    for path in files_below(place):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    share = resident_share(place)
    if share > _MOST_RESIDENT:
        raise SystemExit(f"{share:.1%} of {place.name} is still in the page cache: no cold figure can be had")


def paired_cold(
    ours: Callable[[], object],
    ours_at: Path,
    reference: Callable[[], object],
    reference_at: Path,
    repeats: int,
) -> Paired:
    """As `paired_ratio`, each run after its own files were made cold."""

    def run(action: Callable[[], object], place: Path) -> float:
        make_cold(place)
        return timed(action)

    pairs = []
    for i in range(repeats):
        if i % 2:
            theirs = run(reference, reference_at)
            pairs.append((run(ours, ours_at), theirs))
        else:
            mine = run(ours, ours_at)
            pairs.append((mine, run(reference, reference_at)))
    return Paired(
        ours=statistics.median(a for a, _ in pairs),
        reference=statistics.median(b for _, b in pairs),
        rate=statistics.median(b / a for a, b in pairs),
        repeats=repeats,
    )
