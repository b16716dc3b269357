"""Hugging Face datasets in Arrow format: its index and its files, the tensors cut by hand without a copy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from peers import Epochs
from peers.hf import _EXACT, batches, opened_file

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

NAME = "hf-arrow"
FILES = "hf"
SETTING = "the files of hf, format arrow, BatchSampler of random rows, tensors without a copy by own code"


def loader(folder: Path, workers: int, batch: int) -> Epochs:
    """Tables, turned into tensors where they are read."""
    data, shape = opened_file(folder)
    return Epochs(batches(data.with_format("arrow"), workers, batch, partial(_tensors, shape)), tuple)


def _tensors(shape: tuple[int, ...], table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    rows, tokens = (_flat(table[name]) for name in ("row", "tokens"))
    high, low = torch.from_numpy(rows.copy()).view(-1, 2).unbind(1)
    return high * _EXACT + low, torch.from_numpy(tokens).view(-1, *shape)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    parts = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
