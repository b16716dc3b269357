"""Number formats that are plain conversions: how a float becomes its stored bits, and what is refused.

A format is one line in `FLOATS`. Rows are checked and converted in slices that stay in the processor's
cache, so a whole unit is never copied twice and comes from memory once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import StorageValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.policies import Number
    from embedstore.shapes import AnyArray, Float32Array

_SLICE_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A plain conversion of floating values to one stored dtype; bfloat16 is stored as its bits, uint16."""

    name: Number
    dtype: np.dtype[Any]
    bits: np.dtype[np.unsignedinteger]
    exponent: int
    largest: float

    def encode(
        self, values: AnyArray, *, array: str, rows: AnyArray | None = None, first: int = 0
    ) -> AnyArray:
        """Values `(n, ...)` float32 or the stored dtype, finite, to the stored dtype, C order.

        `rows` names the table row of every place (default: counted from `first`). Raises
        `StorageValueError` with row, value and the policy that would hold it.
        """
        if values.dtype not in (self.dtype, np.dtype(np.float32)):
            raise StorageValueError(
                f"wrong dtype for {array}", found=values.dtype, allowed=f"{self.dtype} or float32"
            )
        same = values.dtype == self.dtype
        out = np.ascontiguousarray(values) if same else np.empty(values.shape, self.dtype)
        per_row = max(1, values[:1].nbytes)
        step = max(1, _SLICE_BYTES // per_row)
        for at in range(0, len(values), step):
            part = out[at : at + step]
            if not same:
                self._convert(values[at : at + step], part)
            if not self._all_finite(part):
                self._refuse(
                    values[at : at + step], part, array, rows[at:] if rows is not None else None, first + at
                )
        return out

    def _convert(self, values: AnyArray, out: AnyArray) -> None:
        if self.name == "bfloat16":
            bits = np.ascontiguousarray(values).view(np.uint32)
            # Half of the last kept place, less one where that place is even: nearest, ties to even.
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            # A NaN must not be rounded into an infinity, or past the sign.
            out[...] = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
            return
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = values

    def finite(self, stored: AnyArray) -> AnyArray:
        """Where stored values are numbers, bool of their shape."""
        mask = self.bits.type(self.exponent)
        found: AnyArray = (stored.view(self.bits) & mask) != mask
        return found

    def _all_finite(self, stored: AnyArray) -> bool:
        """Whether all stored values are numbers: without a sign their bits are below the infinity's.

        Two maxima over integers are many times faster than a test of every value.
        """
        if not stored.size:
            return True
        bits = stored.view(self.bits)
        infinity = self.exponent
        minus_infinity = infinity | 1 << (8 * self.bits.itemsize - 1)
        positive = int(bits.view(np.dtype(f"<i{self.bits.itemsize}")).max())
        return positive < infinity and int(bits.max()) < minus_infinity

    def _refuse(
        self, values: AnyArray, stored: AnyArray, array: str, rows: AnyArray | None, first: int
    ) -> None:
        place = tuple(int(i) for i in np.argwhere(~self.finite(stored))[0])
        value = float(self.decode(values[place[0]])[place[1:]])
        row = first + place[0] if rows is None else int(rows[place[0]])
        if np.isfinite(value):
            todo = "store the feature under the policy float32, which would hold it"
        else:
            todo = "no policy holds it: quarantine the row, or look for the fault in the encoder"
        raise StorageValueError(
            f"row {row} of {array} has a value that {self.name} cannot hold",
            found=f"{value!r} at element {place[1:]} of the row",
            allowed=f"finite values up to ±{self.largest:g}",
            todo=todo,
        )

    def decode(self, stored: AnyArray) -> Float32Array:
        """Stored values to float32; no copy where they are float32 already."""
        if self.name == "bfloat16" and stored.dtype == self.dtype:
            wide: Float32Array = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return wide
        return stored.astype(np.float32, copy=False)


FLOATS: Mapping[Number, FloatFormat] = {
    "float16": FloatFormat("float16", np.dtype("<f2"), np.dtype("<u2"), 0x7C00, 65504.0),
    "float32": FloatFormat("float32", np.dtype("<f4"), np.dtype("<u4"), 0x7F800000, 3.4028234663852886e38),
    "bfloat16": FloatFormat("bfloat16", np.dtype("<u2"), np.dtype("<u2"), 0x7F80, 3.3895313892515355e38),
}
