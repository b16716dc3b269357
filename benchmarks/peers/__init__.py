"""Other formats, each at its documented best setting for shuffled training.

A peer is a module with `NAME`, `SETTING` (one line), `write(folder, parts, shape)` where parts are float16
arrays of rows, and either `opened(folder, threads)`, a function `gather(rows, out)` of a group of rows, or,
for libraries with a shuffled loader of their own, `loader(folder, workers, batch)`, which gives an epoch of
`(rows, tokens)` whenever it is iterated. Peers that read our own files have no `write`; `FILES` names
another peer whose files are read; `forget()` lets go of what a library keeps open after its last use.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MODULES = {
    "arrow": "arrow_take",
    "h5py": "h5",
    "lance": "lance_take",
    "tensorstore": "tensorstore_read",
    "zarrs": "zarrs_read",
    "zarr-python": "zarr_python",
    "litdata": "litdata_stream",
    "webdataset": "webdataset_tar",
    "hf": "hf",
    "hf-arrow": "hf_arrow",
    "mds": "mds",
}


class Peer(Protocol):
    """What a module of this folder has that reads given rows."""

    NAME: str
    SETTING: str

    def opened(self, folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:
        """A function that gathers rows into a buffer."""


class LoaderPeer(Protocol):
    """What a module of this folder has that shuffles by itself."""

    NAME: str
    SETTING: str

    def loader(self, folder: Path, workers: int, batch: int) -> Epochs:
        """Shuffled epochs in batches."""


class Epochs:
    """A library's own loader: every iteration is an epoch of `(rows (b,), tokens (b, t, d))`."""

    def __init__(self, batches: Iterable[Any], unpack: Callable[[Any], tuple[Any, Any]]) -> None:
        self._batches, self._unpack = batches, unpack

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._batches:
            yield self._unpack(batch)


def installed() -> tuple[list[Any], list[str]]:
    """The peers whose library is here, and the names of the others."""
    found, missing = [], []
    for name, module in MODULES.items():
        try:
            found.append(importlib.import_module(f"peers.{module}"))
        except ImportError:
            missing.append(name)
    return found, missing


def blocks(rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Runs of neighbours among the rows of a group: first, last plus one, and where they belong."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    breaks = (np.flatnonzero(np.diff(ascending) != 1) + 1).tolist()
    for low, high in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        yield int(ascending[low]), int(ascending[high - 1]) + 1, order[low:high]


def by_blocks(
    read: Callable[[int, int], np.ndarray], threads: int
) -> Callable[[np.ndarray, np.ndarray], None]:
    """Gather a group block by block, in several threads."""
    pool = ThreadPoolExecutor(threads)

    def gather(rows: np.ndarray, out: np.ndarray) -> None:
        def one(block: tuple[int, int, np.ndarray]) -> None:
            low, high, targets = block
            out[targets] = read(low, high)

        for _ in pool.map(one, blocks(rows)):
            pass

    return gather
