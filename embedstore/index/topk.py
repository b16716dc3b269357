"""The best k of a stream, exactly: the gallery comes block by block and is never held.

The order is the one of `metrics.recall`: falling score, then rising row; scores are those of `pair_scores`.
So neither the size of the blocks nor their order makes a difference, however many scores are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.products import (
    BLOCK,
    check,
    full_precision,
    longest,
    outward,
    pair_scores,
    parts,
    slack_between,
    tensor,
)

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.shapes import FloatArray, IntArray

_SCORES = 1 << 24
_LEAST_ROOM = 64
_NO_ROW = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The k best gallery rows of each query: rows `(q, k)` int64, scores `(q, k)` float64, best first."""

    rows: IntArray
    scores: FloatArray


class TopK:
    """The k best of all rows that are added, for each of `queries (q, e)`, by inner product.

    Memory: `q · (2k + 64)` candidates of 16 bytes, and the scores of one block. A row enters where a float32
    product, with its error bound, does not rule it out; only such a pair is scored exactly. Candidates are
    sorted when their room is full, so that the cost of a large k (tens of thousands) is spread over as many
    rows. `UsageError` for k under 1 and for values that are not finite.
    """

    def __init__(self, queries: FloatArray, k: int, *, block: int = BLOCK, device: str = "cpu") -> None:
        if k < 1:
            raise UsageError("k must be at least 1 and the gallery not empty", found=k)
        check(queries, queries[:0], block)
        self.k, self._queries, self._device, self._block = k, queries, device, block
        self._on_device = tensor(queries, device)
        self._reach = longest(queries, block)
        count, self._room = len(queries), max(k, _LEAST_ROOM)
        self._rows = np.full((count, 0), _NO_ROW, np.int64)
        self._scores = np.full((count, 0), -np.inf)
        self._filled = np.zeros(count, np.int64)
        self._bar = np.full(count, -np.inf)
        self.seen = 0

    def add(self, vectors: FloatArray, rows: IntArray | None = None) -> None:
        """Offer `vectors (b, e)` as rows `(b,)`, each row once; none: numbered on from those seen."""
        check(self._queries[:0], vectors, self._block)
        numbers = np.arange(self.seen, self.seen + len(vectors)) if rows is None else np.asarray(rows)
        if numbers.shape != (len(vectors),):
            raise UsageError("one row number a vector", found=f"{numbers.shape} for {len(vectors)}")
        step = min(self._block, max(1, _SCORES // max(1, len(self._queries))))
        with full_precision():
            for part in parts(len(vectors), step):
                scores = self._on_device @ tensor(vectors[part], self._device).T
                slack = slack_between(self._reach, longest(vectors[part], step), vectors.shape[1])
                self._offer(scores, vectors[part], numbers[part], slack)
        self.seen += len(vectors)

    def result(self) -> Neighbours:
        """The best k of what was added so far, all of it where it is fewer; more may be added after."""
        width = min(self.k, self.seen)
        self._widen(width)
        self._settle()
        return Neighbours(rows=self._rows[:, :width].copy(), scores=self._scores[:, :width].copy())

    def _offer(self, scores: Tensor, vectors: FloatArray, rows: IntArray, slack: float) -> None:
        low = outward(self._entry_bar(scores, slack) - slack, up=False).to(scores.device)
        enters = scores >= low[:, None]
        counts = enters.sum(dim=1).cpu().numpy()
        if counts.max(initial=0) > self._room:
            half = len(rows) // 2
            self._offer(scores[:, :half], vectors[:half], rows[:half], slack)
            self._offer(scores[:, half:], vectors[half:], rows[half:], slack)
            return
        if self._bar.size and (self._filled + counts).max() > self.k + self._room:
            self._settle()
            low = outward(torch.from_numpy(self._bar) - slack, up=False).to(scores.device)
            enters &= scores >= low[:, None]
            counts = enters.sum(dim=1).cpu().numpy()
        self._take(enters, counts, vectors, rows)

    def _entry_bar(self, scores: Tensor, slack: float) -> Tensor:
        """A score `(q,)` float64 that the k-th best row so far is sure to reach."""
        bar = torch.from_numpy(self._bar)
        if scores.shape[1] < self.k:
            return bar
        own = torch.topk(scores, self.k, dim=1).values[:, -1].cpu().double() - slack
        return torch.maximum(bar, own)

    def _take(self, enters: Tensor, counts: IntArray, vectors: FloatArray, rows: IntArray) -> None:
        """Score the pairs that enter and put them behind the candidates of their queries."""
        left, right = torch.nonzero(enters).cpu().numpy().T
        first = np.cumsum(counts) - counts
        slots = self._filled[left] + np.arange(len(left)) - first[left]
        self._widen(int((self._filled + counts).max(initial=0)))
        self._rows[left, slots] = rows[right]
        self._scores[left, slots] = pair_scores(self._queries, vectors, left, right)
        self._filled += counts

    def _widen(self, width: int) -> None:
        """Room for `width` candidates a query, in steps, so that few rows never take the room of many."""
        count, have = self._rows.shape
        if width <= have:
            return
        more = min(max(width, 2 * have), self.k + self._room) - have
        self._rows = np.concatenate([self._rows, np.full((count, more), _NO_ROW, np.int64)], axis=1)
        self._scores = np.concatenate([self._scores, np.full((count, more), -np.inf)], axis=1)

    def _settle(self) -> None:
        """Sort the candidates of each query and keep the best k."""
        for part in parts(len(self._rows), max(1, _SCORES // max(1, self._rows.shape[1]))):
            order = np.lexsort((self._rows[part], -self._scores[part]), axis=-1)
            self._rows[part] = np.take_along_axis(self._rows[part], order, axis=1)
            self._scores[part] = np.take_along_axis(self._scores[part], order, axis=1)
        self._rows[:, self.k :], self._scores[:, self.k :] = _NO_ROW, -np.inf
        self._filled = np.minimum(self._filled, self.k)
        if self._rows.shape[1] >= self.k:
            self._bar = self._scores[:, self.k - 1].copy()


def top_k(
    queries: FloatArray, gallery: FloatArray, k: int, *, block: int = BLOCK, device: str = "cpu"
) -> Neighbours:
    """The k best gallery rows of each query by inner product (all of them where the gallery is smaller).

    queries `(q, e)`, gallery `(n, e)`: floating, read as float32. Memory beside the inputs as of `TopK` for
    `block` queries. `UsageError` for values that are not finite or shapes that do not meet.
    """
    check(queries, gallery, block)
    k = min(k, len(gallery))
    if k < 1:
        raise UsageError("k must be at least 1 and the gallery not empty", found=k)
    found = Neighbours(rows=np.empty((len(queries), k), np.int64), scores=np.empty((len(queries), k)))
    for part in parts(len(queries), block):
        best = TopK(queries[part], k, block=block, device=device)
        best.add(gallery)
        own = best.result()
        found.rows[part], found.scores[part] = own.rows, own.scores
    return found
