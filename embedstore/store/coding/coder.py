"""From plain values to what a policy stores, and back: one place that knows the order of the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import StorageValueError
from embedstore.store import geometry
from embedstore.store.coding import calibration as learning
from embedstore.store.coding import linear, scaled, shrink
from embedstore.store.coding.codecs import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.documents import ArrayName, FeatureHeader
    from embedstore.policies import Policy
    from embedstore.shapes import AnyArray, Float32Array, IntArray

SCALES_OF: dict[ArrayName, ArrayName] = {
    "tokens": "scales",
    "prefix": "prefix_scales",
    "pooled": "pooled_scales",
}


class Coder:
    """Encodes and decodes rows of one feature. Stateless; `learnt` are the arrays of its calibration."""

    def __init__(
        self,
        policy: Policy,
        *,
        grid: tuple[int, int] | None = None,
        learnt: Mapping[str, Float32Array] | None = None,
        name: str = "",
    ) -> None:
        self.policy, self.grid, self.name = policy, grid, name
        self.learnt: Mapping[str, Float32Array] = learnt or {}

    @classmethod
    def of(cls, header: FeatureHeader, learnt: Mapping[str, Float32Array] | None = None) -> Coder:
        """The coder of a feature; text tokens only take the number format."""
        policy = geometry.effective_policy(header.policy, header.card)
        return cls(policy, grid=header.card.grid, learnt=learnt, name=header.name)

    @classmethod
    def read(cls, folder: Path, header: FeatureHeader) -> Coder:
        """The coder of a feature that is on disk, with its calibration checked."""
        policy = geometry.effective_policy(header.policy, header.card)
        found = learning.read(folder, header, policy)
        return cls.of(header, found.arrays if found else None)

    @property
    def is_plain(self) -> bool:
        """Whether values are stored as floats of one type, one to one."""
        return self.policy.number in FLOATS and not self.policy.shrinks

    def encode(self, arrays: Mapping[ArrayName, AnyArray], *, rows: IntArray) -> dict[ArrayName, AnyArray]:
        """Plain floats of some good `rows (b,)` to stored arrays, scales and weights included.

        `arrays`: `tokens (b, t, d)` of pictures or `(sum of lengths, d)` of texts with `lengths (b,)`,
        `prefix (b, p, d)`, `pooled (b, w)`. `StorageValueError` names row and value for what is no number or
        beyond the format's range.
        """
        made: dict[ArrayName, AnyArray] = {}
        for name, values in arrays.items():
            if name == "lengths":
                made[name] = values
                continue
            packed = name == "tokens" and "lengths" in arrays
            of = np.repeat(rows, arrays["lengths"]) if packed else rows
            if name == "tokens" and self.policy.shrinks:
                made |= self._shrunk(self._plain(values, name, of), of)
            else:
                made |= self._numbers(name, values, of)
        return made

    def _plain(self, values: AnyArray, name: str, rows: IntArray) -> Float32Array:
        wide = np.asarray(values).astype(np.float32, copy=False)
        checked: Float32Array = FLOATS["float32"].encode(wide, array=self._where(name), rows=rows)
        return checked

    def _where(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _shrunk(self, tokens: Float32Array, rows: IntArray) -> dict[ArrayName, AnyArray]:
        left, weights = shrink.shrink_tokens(self.policy, tokens, self.grid)
        made: dict[ArrayName, AnyArray] = {} if weights is None else {"weights": weights}
        if self.policy.pca:
            left = linear.to_basis(left, self._learnt("pca.mean"), self._learnt("pca.basis"))
        if self.policy.pq:
            return made | {"tokens": linear.encode_pq(left, self._learnt("pq.codebook"))}
        return made | self._numbers("tokens", left, rows)

    def _numbers(self, name: ArrayName, values: AnyArray, rows: IntArray) -> dict[ArrayName, AnyArray]:
        number = self.policy.number
        if number in FLOATS:
            fits = values.dtype in (FLOATS[number].dtype, np.dtype(np.float32))
            given = values if fits else values.astype(np.float32)
            return {name: FLOATS[number].encode(given, array=self._where(name), rows=rows)}
        wide = self._plain(values, name, rows)
        if number == "fp8":
            codes, scales = scaled.encode_fp8(wide)
        else:
            codes, scales = scaled.encode_int8(wide, *self._channels(name))
        return {name: codes, SCALES_OF[name]: scales}

    def decode(self, name: ArrayName, stored: AnyArray, scales: Float32Array | None = None) -> Float32Array:
        """Stored values of `tokens`, `prefix` or `pooled` to float32 as wide as the encoder made them.

        `scales` where the number format has them. Merged and pooled tokens stay as few as they are.
        """
        shrunk = name == "tokens" and self.policy.shrinks
        if shrunk and self.policy.pq:
            values = linear.decode_pq(stored, self._learnt("pq.codebook"))
        elif self.policy.number in FLOATS:
            values = FLOATS[self.policy.number].decode(stored)
        elif scales is None:
            raise StorageValueError(f"{self._where(name)} is stored with scales and cannot be decoded alone")
        elif self.policy.number == "fp8":
            values = scaled.decode_fp8(stored, scales)
        else:
            values = scaled.decode_int8(stored, scales, *self._channels(name))
        if shrunk and self.policy.pca:
            values = linear.from_basis(values, self._learnt("pca.mean"), self._learnt("pca.basis"))
        return values

    def _channels(self, name: str) -> tuple[Float32Array, Float32Array]:
        return self._learnt(f"{name}.mean"), self._learnt(f"{name}.deviation")

    def _learnt(self, name: str) -> Float32Array:
        if name not in self.learnt:
            raise StorageValueError(
                f"the policy {self.policy.name} needs its calibration", found=f"no {name}", where=self.name
            )
        return self.learnt[name]


def whole_rows(header: FeatureHeader, stored: Mapping[ArrayName, AnyArray]) -> AnyArray:
    """Which rows of `pooled (b, …)`, with `pooled_scales (b,)` where there are any, hold numbers."""
    scales = stored.get("pooled_scales")
    if scales is not None:
        return np.asarray(np.isfinite(scales))
    number = geometry.effective_policy(header.policy, header.card).number
    return np.asarray(FLOATS[number].finite(stored["pooled"]).all(axis=1))
