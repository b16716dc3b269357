"""The array of zarr-python through tensorstore: all blocks of a group asked for at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorstore as ts

from peers import blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

NAME = "tensorstore"
SETTING = "Zarr, chunks of 512 KB, all blocks of a group in flight, threads as ours, no chunk cache"
FILES = "zarr-python"


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Asynchronous reads of whole blocks."""
    limit = {"limit": threads}
    context = {"data_copy_concurrency": limit, "file_io_concurrency": limit}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder)},
        "context": context,
    }
    array = ts.open(spec, read=True).result()

    def gather(rows: np.ndarray, out: np.ndarray) -> None:
        asked = [(targets, array[low:high].read()) for low, high, targets in blocks(rows)]
        for targets, future in asked:
            out[targets] = future.result()

    return gather
