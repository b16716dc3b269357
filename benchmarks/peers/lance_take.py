"""Lance, fixed-size binary rows; `take` of the sorted rows of a group, in Lance's own threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

NAME = "lance"
SETTING = "fixed-size lists, take of sorted rows, its own threads"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """One record batch a part."""
    width = int(np.prod(shape[1:]))
    schema = pa.schema([("tokens", pa.list_(pa.float16(), width))])

    def batches() -> Iterable[pa.RecordBatch]:
        for part in parts:
            flat = pa.array(np.ascontiguousarray(part).reshape(-1))
            rows = pa.FixedSizeListArray.from_arrays(flat, width)
            yield pa.record_batch([rows], schema=schema)

    lance.write_dataset(batches(), str(folder / "tokens.lance"), schema=schema)


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:  # noqa: ARG001 - Lance's own
    """Lance's take, then one copy to the shuffled places."""
    data = lance.dataset(str(folder / "tokens.lance"))

    def gather(rows: np.ndarray, out: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        column = data.take(rows[order], columns=["tokens"])["tokens"].combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        out[order] = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, *out.shape[1:])

    return gather
