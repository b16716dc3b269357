"""The numbers of an export: one array of a feature, decoded, in the dtype that is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from embedstore.errors import StorageValueError, UsageError
from embedstore.interchange.values import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.interchange.selection import Selection
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Feature

Array: TypeAlias = Literal["pooled", "tokens", "cls", "mean"]
Dtype: TypeAlias = Literal["float16", "float32"]
ARRAYS: tuple[Array, ...] = ("pooled", "tokens", "cls", "mean")
DTYPES: tuple[Dtype, ...] = ("float16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """One column of embeddings: `rows` of a feature, `shape` of one row; ragged texts have no first size."""

    feature: Feature
    array: Array
    dtype: Dtype
    rows: IntArray
    shape: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """The feature's."""
        return self.feature.name

    @property
    def ragged(self) -> bool:
        """Whether rows differ in their number of tokens."""
        return self.shape[0] is None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in float32, of the longest where rows differ."""
        return 4 * math.prod(size or self.feature.header.max_tokens for size in self.shape)

    def read(self, start: int, stop: int) -> tuple[FloatArray, IntArray | None]:
        """Lines `[start, stop)`: `(b, …)`, or packed tokens `(sum, d)` with offsets `(b+1,)`."""
        rows = self.rows[start:stop]
        if self.ragged:
            packed = self.feature.decoded_text(rows)
            return self._narrow(packed.tokens, rows), packed.offsets
        return self._narrow(_decoded(self.feature, self.array, rows), rows), None

    def _narrow(self, values: FloatArray, rows: IntArray) -> FloatArray:
        with np.errstate(over="ignore"):
            done = np.ascontiguousarray(values, np.dtype(self.dtype).newbyteorder("<"))
        if not np.isfinite(done).all():
            raise StorageValueError(
                f"values beyond the range of {self.dtype}",
                where=f"{self.name}, rows {rows.min()} to {rows.max()}",
                todo="export with --dtype float32",
            )
        return done

    def arrow_type(self) -> pa.DataType:
        """Lists of fixed size, one level an axis; ragged tokens are a list of such."""
        kind = pa.float16() if self.dtype == "float16" else pa.float32()
        for size in reversed(self.shape):
            kind = pa.list_(kind) if size is None else pa.list_(kind, size)
        return kind

    def arrow(self, start: int, stop: int) -> pa.Array:
        """Lines `[start, stop)` as an Arrow array of `arrow_type`."""
        values, offsets = self.read(start, stop)
        sizes = [size for size in self.shape if size is not None]
        out: Any = pa.array(values.reshape(-1))
        for size in reversed(sizes):
            out = pa.FixedSizeListArray.from_arrays(out, size)
        if offsets is not None:
            out = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), out)
        return out


def vectors_of(feature: Feature, array: Array, dtype: Dtype, selection: Selection) -> Vectors:
    """Check that a feature has the array; `UsageError` with those it has."""
    possible = arrays_of(feature)
    if array not in possible:
        raise UsageError(
            f"feature {feature.name!r} has no {array!r}", where="--array", allowed=", ".join(possible)
        )
    rows = selection.rows_of(feature)
    if array == "tokens" and feature.table == "texts":
        shape: tuple[int | None, ...] = (None, feature.card.width)
    else:
        shape = _decoded(feature, array, rows[:1]).shape[1:]
    return Vectors(feature=feature, array=array, dtype=dtype, rows=rows, shape=shape)


def arrays_of(feature: Feature) -> tuple[Array, ...]:
    """What can be exported of a feature."""
    there = {
        "pooled": "pooled" in feature.arrays,
        "tokens": "tokens" in feature.arrays,
        "cls": "prefix" in feature.arrays and feature.card.has_cls,
        "mean": "tokens" in feature.arrays,
    }
    return tuple(name for name in ARRAYS if there[name])


def _decoded(feature: Feature, array: Array, rows: IntArray) -> FloatArray:
    if array == "pooled":
        return feature.decoded("pooled", rows)
    if array == "cls":
        return feature.decoded("prefix", rows)[:, 0]
    if array == "tokens":
        return feature.decoded("tokens", rows)
    if feature.table == "texts":
        packed = feature.decoded_text(rows)
        sums: FloatArray = np.add.reduceat(packed.tokens, packed.offsets[:-1], axis=0)
        return (sums / packed.lengths[:, None]).astype(np.float32)
    tokens = feature.decoded("tokens", rows)
    if "weights" in feature.arrays:
        weighted: FloatArray = np.einsum("ntd,nt->nd", tokens, feature.gather("weights", rows))
        return weighted
    mean: FloatArray = tokens.mean(axis=1, dtype=np.float32)
    return mean


def blocks(columns: list[Vectors], start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
    """Lines `[start, stop)` in blocks of a bounded number of bytes, all columns together."""
    end = len(columns[0].rows) if stop is None else stop
    step = max(1, BLOCK_BYTES // max(1, sum(c.row_bytes for c in columns)))
    for at in range(start, end, step):
        yield at, min(end, at + step)
