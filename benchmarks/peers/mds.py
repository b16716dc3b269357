"""MosaicML Streaming: MDS shards of 64 MB, its default shuffle (py1e)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from peers import Epochs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

NAME = "mds"
SETTING = "shards of 64 MB, typed arrays, shuffle py1e over the whole set"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Arrays of a stated shape, without a header each."""
    sizes = ",".join(map(str, shape[1:]))
    columns, at = {"row": "int", "tokens": f"ndarray:float16:{sizes}"}, 0
    with MDSWriter(out=str(folder), columns=columns, size_limit="64mb") as out:
        for part in parts:
            for tokens in part:
                out.write({"row": at, "tokens": tokens})
                at += 1


def loader(folder: Path, workers: int, batch: int) -> Epochs:
    """Local shards, nothing to download."""
    clean_stale_shared_memory()
    data = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    found = DataLoader(data, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    return Epochs(found, lambda items: (items["row"], items["tokens"]))
