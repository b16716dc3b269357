"""zarr-python: a sharded array in shards of 64 MB, its chunks larger than ours, which suits it better.

`write` takes other sizes, to compare the writing of one layout.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import zarr

from peers import by_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy as np

NAME = "zarr-python"
SETTING = "chunks of 512 KB, blocks in threads, default pipeline"
SHARD_BYTES, CHUNK_BYTES = 64 << 20, 512 << 10


def write(
    folder: Path,
    parts: Iterable[np.ndarray],
    shape: tuple[int, ...],
    sizes: tuple[int, int] | None = None,
) -> None:
    """The array shard after shard; parts are as long as several shards. `sizes`: rows a shard and a chunk."""
    row = 2 * math.prod(shape[1:])
    shard, chunk = sizes or tuple(
        1 << max(0, (most // row).bit_length() - 1) for most in (SHARD_BYTES, CHUNK_BYTES)
    )
    array = zarr.create_array(
        str(folder),
        shape=shape,
        dtype="float16",
        overwrite=True,
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        compressors=[zarr.codecs.Crc32cCodec()],
    )
    at = 0
    for part in parts:
        for low in range(0, len(part), shard):
            some = part[low : low + shard]
            array[at : at + len(some)] = some
            at += len(some)


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Whole blocks in several threads."""
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})
    array = zarr.open_array(str(folder), mode="r")
    return by_blocks(lambda low, high: array[low:high], threads)
