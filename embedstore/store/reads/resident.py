"""Which share of some files is in the system's page cache, and how to make them leave it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from embedstore.store.reads import handles
from embedstore.store.reads.mapped import FileMap

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_LEFT = 0.01


def resident_share(files: Iterable[Path]) -> float | None:
    """Share of the pages of files that are in memory, 0 to 1; none where the system does not tell."""
    here = every = 0
    for path in files:
        if not path.stat().st_size:
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            mapped = FileMap.of(handle)
            counted = None if mapped is None else mapped.pages_in_memory()
        finally:
            os.close(handle)
        if counted is None:
            return None
        here, every = here + counted[0], every + counted[1]
    return here / every if every else 0.0


def make_cold(files: Iterable[Path]) -> bool:
    """Write files back and drop them from the page cache; whether over 99 % of their pages left it.

    Every file that the process holds open for reading is let go first, with its maps: what is mapped stays.
    """
    files = list(files)
    handles.let_go_all()
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    share = resident_share(files)
    return share is not None and share <= MOST_LEFT
