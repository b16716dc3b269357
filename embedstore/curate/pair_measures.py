"""What is measured of every pair, and how sure it is: each measure knows how every row moves it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import Figure
from embedstore.errors import UsageError
from embedstore.index.topk import top_k
from embedstore.metrics.cka import cka_influence, cka_of
from embedstore.metrics.hsic import Cka, hsic, influence, rbf_kernel, row_parts
from embedstore.metrics.overlap import mutual_overlap, others_only

if TYPE_CHECKING:
    from embedstore.curate.pair_sums import Pair, PairSums
    from embedstore.shapes import Float32Array, FloatArray, IntArray

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of all pairs: values, and how each moves with the rows of the sample `(m,)`.

    rows: how many the values were taken over; the error shrinks with their root.
    """

    values: dict[Pair, float]
    moves: dict[Pair, FloatArray]
    rows: int

    def order(self) -> list[Pair]:
        """The highest first; equal values by name."""
        return sorted(self.values, key=lambda pair: (-self.values[pair], pair))

    def figure(self, pair: Pair) -> Figure:
        """The value with its 95 % interval."""
        return self._figure(self.values[pair], self.moves[pair], intervals=1)

    def behind(self, best: Pair, pair: Pair) -> Figure:
        """How far a pair is behind the best one: on the same rows, so that what moves both cancels.

        The intervals of all pairs hold together at 95 % (Bonferroni).
        """
        distance = self.values[best] - self.values[pair]
        return self._figure(distance, self.moves[best] - self.moves[pair], intervals=len(self.values) - 1)

    def _figure(self, value: float, moves: FloatArray, *, intervals: int) -> Figure:
        reach = NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * intervals))
        error = reach * float(moves.std()) / self.rows**0.5
        return Figure(value=value, low=value - error, high=value + error)


def linear(read: PairSums) -> tuple[Measured, Measured]:
    """Linear CKA over all rows, unbiased and biased; rows move both alike."""
    found = {pair: cka_of(*read.of(pair)) for pair in read.pairs}
    moves = {
        (x, y): cka_influence(*read.of((x, y)), x=read.sampled[x], y=read.sampled[y]) for x, y in read.pairs
    }
    return (
        Measured(values={p: c.unbiased for p, c in found.items()}, moves=moves, rows=read.rows),
        Measured(values={p: c.biased for p, c in found.items()}, moves=moves, rows=read.rows),
    )


def rbf(read: PairSums) -> tuple[Measured, dict[Pair, float], dict[str, float]]:
    """CKA with Gaussian kernels on the sample: unbiased; biased; and the width of each feature's kernel.

    Memory: an m × m matrix for every text feature and some more.
    """
    texts = {y: _kernel(read, y) for _, y in read.pairs}
    sigma = {y: width for y, (_, width) in texts.items()}
    own = {y: (hsic(m, m), row_parts(m, m)) for y, (m, _) in texts.items()}
    values: dict[Pair, Cka] = {}
    moves: dict[Pair, FloatArray] = {}
    rows = len(next(iter(read.sampled.values())))
    for x in dict.fromkeys(x for x, _ in read.pairs):
        k, sigma[x] = _kernel(read, x)
        xx, x_parts = hsic(k, k), row_parts(k, k)
        for y, (m, _) in texts.items():
            (yy, y_parts), xy = own[y], hsic(k, m)
            values[x, y] = Cka.of(xx, yy, xy)
            parts = (rows * x_parts, rows * y_parts, rows * row_parts(k, m))
            moves[x, y] = influence(*parts, of=(xx, yy, xy))
    unbiased = Measured(values={p: c.unbiased for p, c in values.items()}, moves=moves, rows=rows)
    return unbiased, {p: c.biased for p, c in values.items()}, sigma


def knn(read: PairSums, k: int) -> Measured:
    """Mean share of a row's k nearest neighbours, by cosine in the sample, that both encoders name."""
    lists = {name: others_only(_nearest(vectors, k + 1)) for name, vectors in read.sampled.items()}
    shares = {(x, y): mutual_overlap(lists[x], lists[y]) for x, y in read.pairs}
    rows = len(next(iter(lists.values())))
    return Measured(values={p: float(s.mean()) for p, s in shares.items()}, moves=shares, rows=rows)


def _nearest(vectors: Float32Array, k: int) -> IntArray:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    unit = vectors / np.where(lengths > 0, lengths, 1)[:, None]
    return top_k(unit, unit, k).rows


def _kernel(read: PairSums, name: str) -> tuple[FloatArray, float]:
    try:
        return rbf_kernel(read.sampled[name])
    except UsageError as bad:
        raise UsageError(bad.problem, where=name, todo=bad.todo) from None
