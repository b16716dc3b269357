"""The array of zarr-python through it with the Rust pipeline of zarrs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zarr
import zarrs  # noqa: F401 - registers its pipeline

from peers import by_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

NAME = "zarrs"
SETTING = "chunks of 512 KB, blocks in threads, codec_pipeline zarrs.ZarrsCodecPipeline"
FILES = "zarr-python"


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Whole blocks in several threads."""
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(str(folder), mode="r")
    return by_blocks(lambda low, high: array[low:high], threads)
