"""Files read through a memory map, where that can neither wait for the disk nor fail.

Copies out of the page cache run at the memory's speed through a map; through the kernel they take up to twice
the time. But a page that is not there is waited for, and one that cannot be read, or that was cut off, ends
the process. So the system is asked first, for every stretch, whether all of its pages are in memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embedstore.shapes import ByteArray

_PAGE = mmap.PAGESIZE
_FAILED = ctypes.c_void_p(-1).value
_answers = threading.local()


class FileMap:
    """A whole file, mapped read-only, as long as this object or any view of its bytes is held.

    Whoever asks what is in memory keeps the file open; the bytes do not need that. `mmap.mmap` would open it
    once more, and a process may open few.
    """

    def __init__(self, libc: Any, handle: int, address: int, nbytes: int) -> None:
        self._libc, self._handle, self._address, self._nbytes = libc, handle, address, nbytes
        memory = (ctypes.c_ubyte * nbytes).from_address(address)
        # Every view holds this object, and nothing but views: a shard may be let go while it is copied from.
        ending = weakref.finalize(memory, libc.munmap, address, nbytes)
        ending.atexit = False  # threads may still read
        self.bytes: ByteArray = np.ctypeslib.as_array(memory)
        self.bytes.flags.writeable = False

    @classmethod
    def of(cls, handle: int) -> FileMap | None:
        """A map of an open file; none where the system has none, or tells only an owner what is in memory."""
        libc, stat = _libc(), os.fstat(handle)
        if libc is None or not stat.st_size or os.geteuid() not in {0, stat.st_uid}:
            return None
        address = libc.mmap(None, stat.st_size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
        return None if address in {None, _FAILED} else cls(libc, handle, address, stat.st_size)

    def in_memory(self, first: int, stop: int) -> bool:
        """Whether all pages of bytes `[first, stop)` are in memory now, in a file that was not cut."""
        low = first // _PAGE * _PAGE
        pages = -(-(stop - low) // _PAGE)
        if not 0 <= first < stop <= self._nbytes:
            return False
        states, place = _states(pages)
        # A page may outlive the end of its file.
        if not self.is_whole() or self._libc.mincore(self._address + low, stop - low, place):
            return False
        return bool((states & 1).all())

    def pages_in_memory(self) -> tuple[int, int] | None:
        """How many pages of the file are in memory, and how many it has; none where the system fails."""
        states, place = _states(-(-self._nbytes // _PAGE))
        if self._libc.mincore(self._address, self._nbytes, place):
            return None
        return int((states & 1).sum()), len(states)

    def is_whole(self) -> bool:
        """Whether the file is as long as it was; what was cut off must not be touched."""
        return os.fstat(self._handle).st_size == self._nbytes


def _states(pages: int) -> tuple[ByteArray, int]:
    """Room of this thread for the answers about so many pages, and its address."""
    if not hasattr(_answers, "room") or len(_answers.room) < pages:
        _answers.room = np.empty(max(pages, 4096), np.uint8)
        _answers.place = _answers.room.ctypes.data
    return _answers.room[:pages], _answers.place


@cache
def _libc() -> Any:
    """The system's own functions; none where they are not Linux's."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    size, place = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype = place
    libc.mmap.argtypes = [place, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [place, size]
    libc.mincore.argtypes = [place, size, place]
    return libc
