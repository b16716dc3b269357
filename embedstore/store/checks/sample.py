"""Which part of a store a sampled verification reads: a pure function of share, seed and names."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.documents import ArraySpec, FeatureHeader
    from embedstore.shapes import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A share of all inner chunks, drawn by `seed`; of every array of a feature at least one.

    Headers, records, tables, sizes and index checksums are never left out: they are small.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(
                "bad share", where="--sample", found=self.share, allowed="above 0 %, up to 100 %"
            )

    def _random(self, header: FeatureHeader, what: str, *place: int) -> np.random.Generator:
        name = zlib.crc32(f"{header.name}/{what}".encode())
        return np.random.default_rng([self.seed, name, *place])

    def _one(self, header: FeatureHeader, what: str) -> int:
        """The unit from which at least something is read."""
        return int(self._random(header, f"{what} unit").integers(max(1, header.units)))

    def chunks(self, header: FeatureHeader, spec: ArraySpec, unit: int, count: int) -> IntArray:
        """The chunks of one shard to be read, ascending, of `count` that are used."""
        if not count:
            return np.empty(0, np.int64)
        random = self._random(header, spec.name, unit)
        drawn = random.random(count) < self.share
        if unit == self._one(header, spec.name):
            drawn[int(random.integers(count))] = True
        return np.flatnonzero(drawn)

    def rows(self, header: FeatureHeader, unit: int) -> bool:
        """Whether status, quarantine and embeddings of a unit are compared."""
        return unit == self._one(header, "rows") or self._random(header, "rows", unit).random() < self.share

    def file(self, header: FeatureHeader, unit: int) -> bool:
        """Whether a unit's other file, its thumbnails, is read."""
        return unit == self._one(header, "file") or self._random(header, "file", unit).random() < self.share


def parse_share(text: str) -> float:
    """`1%`, `0.5 %` or `0.01` as a share of 1; `UsageError`."""
    stripped = text.strip()
    number = stripped.removesuffix("%")
    try:
        return float(number) / (1 if number == stripped else 100)
    except ValueError:
        raise UsageError("bad share", where="--sample", found=text, allowed="such as 1% or 0.01") from None
