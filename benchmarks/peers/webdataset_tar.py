"""WebDataset: tar shards of 64 MB, shards and a buffer of rows shuffled, batched in the workers."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import webdataset

from peers import Epochs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "webdataset"
SETTING = "tars of 64 MB, raw tensors, shards shuffled, a buffer of two batches in each worker"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """The key is the row; the bytes are the tokens."""
    at = 0
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=64e6, verbose=0) as out:
        for part in parts:
            for tokens in part:
                out.write({"__key__": f"{at:08d}", "tokens.bin": tokens.tobytes()})
                at += 1
    (folder / "shape").write_text(" ".join(map(str, shape[1:])), encoding="utf-8")


def loader(folder: Path, workers: int, batch: int) -> Epochs:
    """Every worker its own shards."""
    shape = tuple(map(int, (folder / "shape").read_text(encoding="utf-8").split()))
    shards = sorted(str(p) for p in folder.glob("*.tar"))
    data = (
        webdataset.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(2 * batch)
        .map(partial(_decoded, shape))
        .batched(batch, collation_fn=_collated)
    )
    found = webdataset.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return Epochs(found, tuple)


def _decoded(shape: tuple[int, ...], sample: dict[str, Any]) -> tuple[int, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes are read-only, and are only read
        tokens = torch.from_numpy(np.frombuffer(sample["tokens.bin"], np.float16))
    return int(sample["__key__"]), tokens.view(shape)


def _collated(samples: list[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([row for row, _ in samples]), torch.stack([tokens for _, tokens in samples])
