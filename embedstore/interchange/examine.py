"""One pass over foreign numbers before any is stored: finite or refused, hashed, copied where it pays."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import SourceError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedstore.interchange.opening import Opened
    from embedstore.interchange.values import Values
    from embedstore.shapes import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """Values that are safe to store and cheap to read in any order.

    `sha256` is over dtype, shape, lengths and values in the file's order; `norms` the least and the largest
    L2 norm of a row, none for tokens.
    """

    values: Values
    sha256: str
    norms: tuple[float, float] | None


def examine(opened: Opened, scratch: Path, on_rows: Callable[[int, int], None]) -> Examined:
    """Read everything once, `on_rows(done, total)`. Raises `SourceError` with the row of a NaN or infinity.

    Files that are slow to read out of order are copied to an unnamed temporary file in the folder `scratch`,
    which is gone when the process ends however it ends.
    """
    copy = None if opened.values.near else _Copy(opened.values, scratch)
    try:
        sha256, norms = _read_through(opened, copy, on_rows)
        values = opened.values if copy is None else copy.values()
    finally:
        if copy is not None:
            copy.close()
    return Examined(values=values, sha256=sha256, norms=norms)


def _read_through(
    opened: Opened, copy: _Copy | None, on_rows: Callable[[int, int], None]
) -> tuple[str, tuple[float, float] | None]:
    values = opened.values
    digest = hashlib.sha256(f"{values.dtype} {values.shape}\n".encode())
    if values.lengths is not None:
        digest.update(values.lengths.astype("<i8").tobytes())
    least, most = math.inf, 0.0
    for start in range(0, values.rows, values.block_rows):
        stop = min(values.rows, start + values.block_rows)
        block = without_padding(values, values.read(start, stop), start)
        _refuse_not_finite(block, start, opened)
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).data)
        if block.ndim == 2:
            norms = np.sqrt(np.einsum("nw,nw->n", block, block, dtype=np.float64))
            least, most = min(least, float(norms.min())), max(most, float(norms.max()))
        if copy is not None:
            copy.add(block)
        on_rows(stop, values.rows)
    return digest.hexdigest(), (least, most) if len(values.shape) == 2 else None


def without_padding(values: Values, block: FloatArray, start: int) -> FloatArray:
    """The block with zeros after the last real token of each row."""
    if values.lengths is None:
        return block
    lengths = values.lengths[start : start + len(block)]
    return np.where((np.arange(block.shape[1]) < lengths[:, None])[..., None], block, block.dtype.type(0))


def _refuse_not_finite(block: FloatArray, start: int, opened: Opened) -> None:
    bad = ~np.isfinite(block)
    if not bad.any():
        return
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    row = start + place[0]
    rows = int(np.count_nonzero(bad.reshape(len(block), -1).any(axis=1)))
    known = np.flatnonzero(opened.rows == row)
    raise SourceError(
        "a value is not finite",
        where=f"{opened.name}, row {row}" + (f", id {opened.facts.ids[int(known[0])]}" if known.size else ""),
        found=f"{block[place]} at element {place[1:]}; {rows} such rows near it",
        todo="leave such rows out of the file, or compute them again",
    )


class _Copy:
    """Rows on disk in the file's order, under no name."""

    def __init__(self, values: Values, scratch: Path) -> None:
        self._source = values
        self._file: Any = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - lives as long as its memory map

    def add(self, block: FloatArray) -> None:
        try:
            self._file.write(block.data)
        except OSError as bad:
            raise StoreError(
                f"no room for a copy of the embeddings: {bad.strerror}",
                todo="free some space: the copy takes as much as the numbers themselves, until the end",
            ) from None

    def values(self) -> Values:
        self._file.flush()
        kind = np.dtype("float16" if self._source.dtype == "float16" else "float32")
        mapped = np.memmap(self._file, kind, "r", shape=self._source.shape)
        return replace(
            self._source, dtype=kind.name, cut=lambda start, stop: np.asarray(mapped[start:stop]), near=True
        )

    def close(self) -> None:
        """Give the file back; a memory map of it stays."""
        self._file.close()
