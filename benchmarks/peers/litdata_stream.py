"""LitData: optimised chunks of 64 MB, its shuffled streaming loader."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
import litdata
import torch
from litdata.streaming.cache import Cache
from litdata.streaming.shuffle import FullShuffle, Shuffle

from peers import Epochs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

NAME = "litdata"
SETTING = "chunks of 64 MB, StreamingDataset(shuffle, batch_decode 0, which is its fastest here)"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:  # noqa: ARG001 - as all
    """One item a row, as `optimize` writes them."""
    cache, at = Cache(str(folder), chunk_bytes="64MB"), 0
    for part in parts:
        for tokens in torch.from_numpy(part):
            cache[at] = {"row": at, "tokens": tokens}
            at += 1
    cache.done()
    cache.merge()


def loader(folder: Path, workers: int, batch: int) -> Epochs:
    """Tensors, collated where they are read."""
    data = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False, batch_decode=0)
    found = litdata.StreamingDataLoader(
        data, batch_size=batch, num_workers=workers, persistent_workers=workers > 0
    )
    return Epochs(found, lambda items: (items["row"], items["tokens"]))


def forget() -> None:
    """Let go of the data sets that were read: their orders are cached with them, and keep their maps open."""
    Shuffle.get_len.cache_clear()
    FullShuffle.get_chunks_and_intervals_per_workers.cache_clear()
