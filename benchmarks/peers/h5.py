"""HDF5, one contiguous data set; `read_direct` of whole blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np

from peers import by_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

NAME = "h5py"
SETTING = "contiguous data set, whole blocks read one after the other (the library holds one lock)"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Part after part."""
    at = 0
    with h5py.File(folder / "tokens.h5", "w") as file:
        data = file.create_dataset("tokens", shape, np.float16)
        for part in parts:
            data[at : at + len(part)] = part
            at += len(part)


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:  # noqa: ARG001 - one lock
    """Blocks in one thread."""
    data = h5py.File(folder / "tokens.h5", "r")["tokens"]
    return by_blocks(lambda low, high: data[low:high], 1)
