"""Arrow IPC file, memory-mapped; `take` of the shuffled rows of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

NAME = "arrow"
SETTING = "IPC file, fixed-size binary rows, memory map, take"


def write(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """One record batch a part."""
    width = int(np.prod(shape[1:])) * 2
    schema = pa.schema([("tokens", pa.binary(width))])
    with pa.OSFile(str(folder / "tokens.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        for part in parts:
            data = pa.py_buffer(np.ascontiguousarray(part))
            rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(part), [None, data])
            out.write_batch(pa.record_batch([rows], schema=schema))


def opened(folder: Path, threads: int) -> Callable[[np.ndarray, np.ndarray], None]:  # noqa: ARG001 - Arrow's own
    """Arrow's take, then one copy into the buffer."""
    table = pa.ipc.open_file(pa.memory_map(str(folder / "tokens.arrow"))).read_all()

    def gather(rows: np.ndarray, out: np.ndarray) -> None:
        at = 0
        for chunk in table["tokens"].take(rows).chunks:
            size = len(chunk)
            start = chunk.offset * chunk.type.byte_width
            raw = np.frombuffer(chunk.buffers()[1], np.uint8)[start : start + size * chunk.type.byte_width]
            out[at : at + size] = raw.view(np.float16).reshape(size, *out.shape[1:])
            at += size

    return gather
