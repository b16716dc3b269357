"""Pictures that lie inside a Parquet column: read once to name them, then opened row group by row group."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.sources.reading.files import arrow_input
from embedstore.sources.reading.pictures import BytesPicture, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedstore.shapes import IntArray
    from embedstore.sources.reading.files import File

KEEP_BYTES = 2 * 1024**3
"""Encoded bytes kept in memory. A column that is larger is read in the file's own order."""


class ParquetBytes:
    """Encoded pictures of one column, by row; thread-safe, and cheap to send to another process.

    `column` is of type binary, or a struct with a field `bytes`. Row groups are read whole and kept, the
    least recently used one given up first, so one row group must fit in memory.
    """

    def __init__(self, file: File, column: str) -> None:
        self.file, self.column = file, column
        with arrow_input(file) as opened:
            self.metadata = pq.read_metadata(opened)
        rows = [self.metadata.row_group(g).num_rows for g in range(self.metadata.num_row_groups)]
        self._ends = np.cumsum(rows, dtype=np.int64)
        self.lengths: IntArray = np.zeros(int(self.metadata.num_rows), dtype=np.int64)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_groups", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _groups=OrderedDict(), _lock=threading.Lock())

    @property
    def fits(self) -> bool:
        """Whether all pictures together stay in memory, so that any order of reading is cheap."""
        return int(self.lengths.sum()) <= KEEP_BYTES

    def scan(self) -> Any:
        """Read the column once: the blake2b-128 of every picture in hex, null where a row has none."""
        names: list[str | None] = []
        with arrow_input(self.file) as opened, pq.ParquetFile(opened, metadata=self.metadata) as file:
            for batch in file.iter_batches(batch_size=256, columns=[self.column]):
                for value in _encoded(batch.column(0)):
                    data = value.as_buffer()
                    names.append(None if data is None else hashlib.blake2b(data, digest_size=16).hexdigest())
                    self.lengths[len(names) - 1] = 0 if data is None else data.size
        return pa.array(names, pa.large_string())

    def get(self, row: int) -> bytes:
        """The encoded bytes of one row; empty where the row has none."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._group(group)[row - first].as_py() or b""

    def _group(self, group: int) -> Any:
        with self._lock:
            if group not in self._groups:
                with arrow_input(self.file) as opened, pq.ParquetFile(opened, metadata=self.metadata) as file:
                    table = file.read_row_group(group, columns=[self.column])
                self._groups[group] = _encoded(table.column(0))
                while len(self._groups) > 1 and sum(g.nbytes for g in self._groups.values()) > KEEP_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group]


def _encoded(column: Any) -> Any:
    # A field of which nothing is known has the type null, whose values have no bytes to ask for.
    data = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return data.cast(pa.binary()) if pa.types.is_null(data.type) else data


@dataclass(frozen=True, slots=True)
class ParquetPicture:
    """A picture in a row of a Parquet column."""

    store: ParquetBytes
    row: int
    ref: str

    @property
    def nbytes(self) -> int:
        """Size of the encoded picture in bytes."""
        return int(self.store.lengths[self.row])

    def __reduce__(self) -> tuple[type[BytesPicture], tuple[bytes, str]]:
        """To another process as its bytes: row groups are read and kept in one place."""
        return BytesPicture, (self.store.get(self.row), self.ref)

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`."""
        return open_picture(self.store.get(self.row))
