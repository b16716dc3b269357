"""Correlation of paired values, whole and resampled: Pearson's, and Spearman's as Pearson's of ranks.

A resample is a line of weights: how often each pair of values occurs in it. So both correlations of a
thousand resamples are a few matrix products and one cumulative sum, without a loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.intervals import RESAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embedstore.shapes import FloatArray, IntArray

_WEIGHTS_AT_ONCE = 2_000_000
# A spread that is this small beside the values, both squared, is what rounding leaves of none.
_ROUNDING = 1e-24


def pearson(x: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Pearson's r of `x (n,)` and `y (n,)` in each of the resamples `weights (r, n)`, `(r,)` float64.

    Without weights r is 1: the values themselves. NaN where a side does not vary. `UsageError` for shapes
    that do not meet, and values that are not finite.
    """
    left, right, counts = _checked(x, y, weights)
    return _product_moment(np.broadcast_to(left, counts.shape), np.broadcast_to(right, counts.shape), counts)


def spearman(x: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Spearman's ρ in each resample, as `pearson`; equal values share the mean of their ranks."""
    left, right, counts = _checked(x, y, weights)
    return _product_moment(_ranks(left, counts), _ranks(right, counts), counts)


def point_draws(n: int, *, seed: int, resamples: int = RESAMPLES) -> Iterator[FloatArray]:
    """How often each of n points is drawn, n draws with replacement (Efron 1979): `(some, n)` at a time."""
    rng, shares = np.random.default_rng(seed), np.full(n, 1 / n)
    step = max(1, _WEIGHTS_AT_ONCE // n)
    for at in range(0, resamples, step):
        yield rng.multinomial(n, shares, size=min(step, resamples - at)).astype(np.float64)


def crossed_draws(
    rows: IntArray, columns: IntArray, *, seed: int, resamples: int = RESAMPLES
) -> Iterator[FloatArray]:
    """Weights `(resamples, n)` of points that are cells of a table, whose rows and columns are resampled.

    rows, columns `(n,)` int64: the row and the column of each point, numbered from 0. Cells of one row share
    what is particular to it, so that drawing cells alone would make intervals too narrow (the pigeonhole
    bootstrap, Owen 2007).
    """
    rng = np.random.default_rng(seed)
    drawn = np.ones((resamples, len(rows)))
    for places in (rows, columns):
        n = int(places.max()) + 1
        drawn *= rng.multinomial(n, np.full(n, 1 / n), size=resamples)[:, places]
    yield drawn


def interval(
    of: Callable[[FloatArray, FloatArray, FloatArray | None], FloatArray],
    x: FloatArray,
    y: FloatArray,
    weights: Iterable[FloatArray],
) -> tuple[float, float]:
    """2.5th and 97.5th percentile of `of` (`pearson`, `spearman`) over resamples in which both sides vary.

    `UsageError` where there is none.
    """
    found = np.concatenate([of(x, y, some) for some in weights])
    found = found[np.isfinite(found)]
    if not found.size:
        raise UsageError("values that do not vary correlate with nothing")
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def _checked(
    x: FloatArray, y: FloatArray, weights: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    counts = np.ones((1, len(left))) if weights is None else np.asarray(weights, np.float64)
    shapes = left.shape, right.shape, counts.shape
    if left.ndim != 1 or left.shape != right.shape or counts.ndim != 2 or counts.shape[1:] != left.shape:
        raise UsageError("values must be (n,) and (n,), weights (r, n)", found=shapes)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise UsageError("values that are not finite do not correlate")
    return left, right, counts


def _product_moment(x: FloatArray, y: FloatArray, counts: FloatArray) -> FloatArray:
    """Weighted r of `(r, n)` values."""
    whole = counts.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (v - (v * counts).sum(1, keepdims=True) / whole for v in (x, y))
        squares = [(v * v * counts).sum(1) for v in (left, right)]
        floors = [_ROUNDING * (v * v * counts).sum(1) for v in (x, y)]
        found: FloatArray = (left * right * counts).sum(1) / np.sqrt(squares[0] * squares[1])
    varies = [square > floor for square, floor in zip(squares, floors, strict=True)]
    found[~(varies[0] & varies[1])] = np.nan
    return np.clip(found, -1, 1)


def _ranks(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Mean ranks `(r, n)` of values that occur `counts (r, n)` times."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    each = np.add.reduceat(counts[:, order], starts, axis=1)
    middle = np.cumsum(each, axis=1) - (each - 1) / 2
    found: FloatArray = middle[:, place]
    return found
