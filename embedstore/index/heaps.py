"""The k best so far of many queries: what they are kept in, and the bars that a row has to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.index.products import parts

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, FloatArray, IntArray

_SCORES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best n of each query: `positions (q, n)`, ascending in each row, and `scores (q, n)` float64.

    `valid`: how many of all rows have a direction.
    """

    positions: IntArray
    scores: FloatArray
    valid: int


def merged(shards: list[Best], k: int) -> Best:
    """The best k of streams that follow each other, positions counted on, from the best of each."""
    positions = np.concatenate([shard.positions for shard in shards], axis=1)
    scores = np.concatenate([shard.scores for shard in shards], axis=1)
    valid = sum(shard.valid for shard in shards)
    if positions.shape[1] <= k:
        return Best(positions=positions, scores=scores, valid=valid)
    found = Best(
        positions=np.empty((len(scores), k), positions.dtype),
        scores=np.empty((len(scores), k), np.float64),
        valid=valid,
    )
    for query in range(len(scores)):
        found.positions[query], found.scores[query] = _best(positions[query], scores[query], k)
    return found


@dataclass(slots=True, kw_only=True)
class Heaps:
    """What is kept: of query r `filled[r]` positions, in the order they were seen, and their scores.

    `told (q,)` is the highest bar that was foretold, `bar (q,)` what a row has to reach, `valid` how many
    rows of the stream have a direction, `width` how many of them are asked for.
    """

    positions: IntArray
    scores: FloatArray
    filled: IntArray
    told: FloatArray
    bar: FloatArray
    k: int
    width: int
    valid: int = 0

    def part(self, rows: slice) -> Heaps:
        """Those of some queries, in the same memory."""
        return Heaps(
            positions=self.positions[rows],
            scores=self.scores[rows],
            filled=self.filled[rows],
            told=self.told[rows],
            bar=self.bar[rows],
            k=self.k,
            width=self.width,
        )

    def add(self, counts: IntArray, positions: AnyArray, scores: FloatArray) -> None:
        """Behind what each query has; never more positions a query than there is room beside k."""
        for query in np.flatnonzero(self.filled + counts > self.scores.shape[1]).tolist():
            self.cut(query)
        lines, first = np.arange(len(counts)), np.cumsum(counts) - counts
        slots = np.arange(len(scores)) + np.repeat(lines * self.scores.shape[1] + self.filled - first, counts)
        # Whole rows of an array in C order: the flat view is of the same memory.
        self.positions.reshape(-1)[slots] = positions
        self.scores.reshape(-1)[slots] = scores
        self.filled += counts

    def cut(self, query: int, *, order: bool = False) -> None:
        """Keep the best k of a query, and let the last of them be its bar; put in `order` of position."""
        have = int(self.filled[query])
        positions, scores = self.positions[query, :have], self.scores[query, :have]
        if have > self.k:
            positions, scores = _best(positions, scores, self.k)
        if order:
            places = np.argsort(positions, kind="stable")
            positions, scores = positions[places], scores[places]
        self.filled[query] = len(scores)
        self.positions[query, : len(scores)], self.scores[query, : len(scores)] = positions, scores
        if len(scores) == self.k:
            self.bar[query] = max(self.bar[query], scores.min())

    def foretell(self, share: float) -> None:
        """Raise the bars to what, after this share of the stream, more than k of all are likely to reach."""
        rank = likely(self.k * share)
        for part in parts(len(self.filled), max(1, _SCORES // self.scores.shape[1])):
            wide = int(self.filled[part].max())
            if rank <= min(wide, self.k):
                empty = np.arange(wide) >= self.filled[part, None]
                seen = np.where(empty, -np.inf, self.scores[part, :wide])
                self.told[part] = np.maximum(
                    self.told[part], np.partition(seen, wide - rank, axis=1)[:, wide - rank]
                )
        np.maximum(self.bar, self.told, out=self.bar)

    def misled(self) -> AnyArray:
        """Which queries may have lost rows to a bar that was foretold too high, when all is cut."""
        last = self.scores[:, : self.width].min(axis=1, initial=np.inf)
        wrong: AnyArray = (self.filled < self.width) | (last < self.told)
        return wrong


def likely(share: float) -> int:
    """A number that a sample hardly ever exceeds where this is the mean: four deviations and some more."""
    return int(share + 4 * share**0.5 + 8)


def _best(positions: IntArray, scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k best of more than k, of equal scores those of lower position; in the order given."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = scores > kth
    level = np.flatnonzero(scores == kth)
    need = k - int(np.count_nonzero(kept))
    if need < len(level):
        level = level[np.argpartition(positions[level], need)[:need]]
    kept[level] = True
    return positions[kept], scores[kept]
