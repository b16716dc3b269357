"""zarr-python: a sharded array of the same shards and inner chunks, and our own files read block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zarr

from peers import by_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy as np

NAME = "zarr-python"
SETTING = "our files, blocks in threads, default pipeline"


def write_sharded(
    folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], *, shard: int, chunk: int
) -> None:
    """What zarr-python makes of the same array, shard after shard."""
    array = zarr.create_array(
        str(folder / "tokens.zarr"),
        shape=shape,
        dtype="float16",
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        compressors=[zarr.codecs.Crc32cCodec()],
    )
    at = 0
    for part in parts:
        array[at : at + len(part)] = part
        at += len(part)


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Whole blocks in several threads."""
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"})
    array = zarr.open_array(str(folder), mode="r")
    return by_blocks(lambda low, high: array[low:high], threads)
