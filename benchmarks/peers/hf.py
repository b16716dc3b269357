"""Hugging Face datasets: an Arrow file, map-style, whole batches of random rows as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from peers import Epochs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

NAME = "hf"
SETTING = "fixed-size lists, format torch in float16, BatchSampler of random rows"
# One number format holds for all columns, and float16 counts exactly to this only.
_EXACT = 2048


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Flat lists: nested ones (Array2D) are read several times slower."""
    width, at = int(np.prod(shape[1:])), 0
    features = datasets.Features(
        {
            "row": datasets.List(datasets.Value("int64"), length=2),
            "tokens": datasets.List(datasets.Value("float16"), length=width),
        }
    )
    with ArrowWriter(path=str(folder / "data.arrow"), features=features) as out:
        for part in parts:
            for some in np.array_split(part, max(1, len(part) // 128)):
                rows = np.stack(np.divmod(np.arange(at, at + len(some)), _EXACT), axis=1)
                lists = [
                    pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), size)
                    for x, size in ((rows, 2), (some, width))
                ]
                out.write_table(pa.table(lists, names=["row", "tokens"]))
                at += len(some)
        out.finalize()
    (folder / "shape").write_text(" ".join(map(str, shape[1:])), encoding="utf-8")


def opened_file(folder: Path) -> tuple[datasets.Dataset, tuple[int, ...]]:
    """The data set, and the shape of a row."""
    shape = tuple(map(int, (folder / "shape").read_text(encoding="utf-8").split()))
    return datasets.Dataset.from_file(str(folder / "data.arrow")), shape


def batches(
    data: datasets.Dataset, workers: int, batch: int, collate: Callable[[Any], Any] | None = None
) -> DataLoader[Any]:
    """A loader that asks for a whole batch of random rows at once."""
    return DataLoader(
        data,
        sampler=BatchSampler(RandomSampler(data), batch, drop_last=False),
        batch_size=None,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def loader(folder: Path, workers: int, batch: int) -> Epochs:
    """Tensors in float16; a batch is one take."""
    data, shape = opened_file(folder)

    def unpacked(items: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        high, low = items["row"].long().unbind(1)
        return high * _EXACT + low, items["tokens"].view(-1, *shape)

    return Epochs(batches(data.with_format("torch", dtype=torch.float16), workers, batch), unpacked)
