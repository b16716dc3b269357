"""Storage policies: how the values of a feature become bytes, and what is refused.

A policy is one line in `POLICIES`. Rows are checked and converted in slices of a few MB, so a whole unit
is never copied twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import StorageValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.documents import PolicyName
    from embedstore.shapes import AnyArray, FloatArray

_SLICE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """A plain conversion of floating values to one stored dtype."""

    name: PolicyName
    dtype: np.dtype[np.floating]
    bits: np.dtype[np.unsignedinteger]
    exponent: int

    def encode(
        self, values: AnyArray, *, array: str, rows: AnyArray | None = None, first: int = 0
    ) -> FloatArray:
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
                with np.errstate(over="ignore", invalid="ignore"):
                    part[...] = values[at : at + step]
            mask = self.bits.type(self.exponent)
            if ((part.view(self.bits) & mask) == mask).any():
                self._refuse(
                    values[at : at + step], part, array, rows[at:] if rows is not None else None, first + at
                )
        return out

    def _refuse(
        self, values: AnyArray, stored: AnyArray, array: str, rows: AnyArray | None, first: int
    ) -> None:
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(stored))[0])
        value = float(values[place])
        row = first + place[0] if rows is None else int(rows[place[0]])
        if np.isfinite(value):
            todo = "store the feature under the policy float32, which would hold it"
        else:
            todo = "no policy holds it: quarantine the row, or look for the fault in the encoder"
        raise StorageValueError(
            f"row {row} of {array} has a value that {self.name} cannot hold",
            found=f"{value!r} at element {place[1:]} of the row",
            allowed=f"finite values up to ±{float(np.finfo(self.dtype).max):g}",
            todo=todo,
        )

    def decode(self, stored: FloatArray) -> FloatArray:
        """Stored values to float32; no copy where they are float32 already."""
        return stored.astype(np.float32, copy=False)


POLICIES: Mapping[PolicyName, Policy] = {
    "float16": Policy("float16", np.dtype("<f2"), np.dtype("<u2"), 0x7C00),
    "float32": Policy("float32", np.dtype("<f4"), np.dtype("<u4"), 0x7F800000),
}
