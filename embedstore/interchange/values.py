"""Rows of numbers in somebody else's file: read by slices, never whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.shapes import AnyArray, FloatArray, IntArray

BLOCK_BYTES = 64 << 20
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def _nothing() -> None:
    """Memory maps close themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """An array `(n, w)` or `(n, t, d)` of which any slice of rows can be read.

    `cut(start, stop)` gives rows in the file's dtype (bfloat16: as float32). `near` says whether rows are
    cheap to read in any order; where they are not, a copy on disk is made first. `lengths` `(n,)`: real
    tokens of each row where the file tells, the places after them are padding. `close` gives the file back.
    """

    shape: tuple[int, ...]
    dtype: str
    cut: Callable[[int, int], AnyArray]
    near: bool = True
    lengths: IntArray | None = None
    close: Callable[[], None] = _nothing

    @property
    def rows(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def block_rows(self) -> int:
        """Rows of one read."""
        return max(1, BLOCK_BYTES // max(1, 4 * math.prod(self.shape[1:])))

    def read(self, start: int, stop: int) -> FloatArray:
        """Rows `[start, stop)` in C order, float16 where the file has float16, else float32."""
        return _as_float(self.cut(start, stop))

    def gather(self, rows: IntArray) -> FloatArray:
        """Any rows in the order given; neighbours in the file are read together."""
        wanted = np.float16 if self.dtype == "float16" else np.float32
        out = np.empty((len(rows), *self.shape[1:]), wanted)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            if high > low:
                out[low:high] = self.read(int(rows[low]), int(rows[high - 1]) + 1)
        return out


def _as_float(values: AnyArray) -> FloatArray:
    # The itemsize, not the dtype: float16 of the other byte order is float16 too.
    if values.dtype.kind == "f" and values.dtype.itemsize == 2:
        return np.ascontiguousarray(values, np.float16)
    # A float64 beyond float32's range becomes infinite here, and infinite values are refused with their row.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def check_layout(shape: Sequence[int], dtype: str, where: str) -> None:
    """Refuse what cannot be embeddings: other than 2 or 3 axes, no rows or no width, integers, objects."""
    if dtype not in _FLOATS:
        raise SourceError(
            "embeddings must be floating numbers", where=where, found=dtype, allowed=", ".join(_FLOATS)
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise SourceError(
            "embeddings have a wrong shape",
            where=where,
            found=tuple(shape),
            allowed="(rows, width), or (rows, tokens, width), none of them 0",
        )


def joined(parts: Sequence[Values], names: Sequence[str]) -> Values:
    """Several files one after the other as one array; `SourceError` where their rows are not alike."""
    for part, name in zip(parts, names, strict=True):
        for what, found, allowed in (
            ("width", part.shape[1:], parts[0].shape[1:]),
            ("dtype", part.dtype, parts[0].dtype),
        ):
            if found != allowed:
                raise SourceError(
                    f"the parts differ in {what}", where=name, found=found, allowed=f"{allowed} as {names[0]}"
                )
    starts = np.cumsum([0, *(part.rows for part in parts)])

    def cut(start: int, stop: int) -> AnyArray:
        pieces = [
            part.cut(max(start - first, 0), min(stop - first, part.rows))
            for part, first in zip(parts, starts.tolist(), strict=False)
            if first < stop and first + part.rows > start
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return Values(
        shape=(int(starts[-1]), *parts[0].shape[1:]),
        dtype=parts[0].dtype,
        cut=cut,
        near=all(part.near for part in parts),
    )
