"""Which caption of a picture an epoch takes: a pure, vectorised function of (seed, epoch, row)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, IntArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64 on every value (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def counter_random(seed: int, epoch: int, rows: IntArray) -> npt.NDArray[np.uint64]:
    """64 random bits for each row `(n,)`; a row's bits depend on (seed, epoch, row) only."""
    key = mixed(mixed(np.array([seed], np.uint64)) ^ np.uint64(epoch))
    return mixed(mixed(key ^ rows.astype(np.uint64)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionTable:
    """The texts that may stand for each picture, packed: picture i owns `texts[starts[i]:starts[i+1]]`."""

    texts: IntArray
    starts: IntArray

    @classmethod
    def build(cls, *, images: int, image_of: IntArray, usable: npt.NDArray[np.bool_]) -> CaptionTable:
        """From the picture of every text `(m,)` (below 0: none) and whether the text may be taken `(m,)`."""
        texts = np.flatnonzero(usable & (image_of >= 0))
        owners = image_of[texts]
        counts = np.bincount(owners, minlength=images)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(texts=texts[np.argsort(owners, kind="stable")], starts=starts)

    def counts(self, rows: IntArray) -> IntArray:
        """How many texts each of these pictures has, `(n,)`."""
        return self.starts[rows + 1] - self.starts[rows]

    def choose(self, rows: IntArray, *, seed: int, epoch: int) -> IntArray:
        """One text row for each of these pictures `(n,)`, each with equal chance; all must have one."""
        high: AnyArray = counter_random(seed, epoch, rows) >> np.uint64(32)
        pick = (high * self.counts(rows).astype(np.uint64)) >> np.uint64(32)
        chosen: IntArray = self.texts[self.starts[rows] + pick.astype(np.int64)]
        return chosen

    def choose_several(
        self, rows: IntArray, *, most: int, seed: int, epoch: int
    ) -> tuple[IntArray, IntArray]:
        """Up to `most` different texts of each of these pictures, and how many `(n,)` each has of them.

        The texts stand together picture by picture; any so many of them have equal chance, in any order.
        """
        counts = self.counts(rows)
        place = np.repeat(self.starts[rows] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        owner, texts = np.repeat(np.arange(len(rows)), counts), self.texts[place]
        drawn = np.lexsort((counter_random(seed, epoch, texts), owner))
        nth = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept: IntArray = texts[drawn[nth < most]]
        return kept, np.minimum(counts, most)
