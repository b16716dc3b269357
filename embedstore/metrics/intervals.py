"""95 % intervals by the percentile bootstrap (Efron 1979), seeded.

For means, a resample of q values is a multinomial draw of how often each *distinct* value occurs,
so hits cost two numbers a resample, not q. Known limit: where all values are equal the interval has no width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.metrics.accuracy import ClassRecall
    from embedstore.shapes import AnyArray, FloatArray, IntArray

RESAMPLES = 1000
_DRAWS_AT_ONCE = 4_000_000


def mean_interval(values: AnyArray, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the mean of `values (q,)`, resampled over the queries."""
    distinct, draws = _resamples(values, seed, resamples)
    return percentiles(np.concatenate([counts @ distinct / len(values) for counts in draws]))


def class_mean_interval(found: ClassRecall, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Interval of the mean of class recalls, resampled *within* each class.

    The classes are fixed by the task and each keeps its number of rows in every resample, so no resample
    loses a rare class. A class of m rows and recall p then draws Binomial(m, p) / m.
    """
    present = found.rows > 0
    rows, recall = found.rows[present], found.recall[present]
    if not rows.size:
        raise UsageError("no class has a row")
    draws = np.random.default_rng(seed).binomial(rows, recall, size=(resamples, len(rows)))
    return percentiles((draws / rows).mean(axis=1))


def sums_intervals(
    parts: AnyArray,
    statistics: Callable[[FloatArray], FloatArray],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> FloatArray:
    """2.5th and 97.5th percentile `(m, 2)` of m statistics of sums over rows, resampled over the rows.

    parts `(n, k)`: what each row adds; statistics: sums `(b, k)` float64 to `(b, m)`, NaN where a resample
    has none, which is left out. NaN where no resample has one.
    """
    if not len(parts):
        raise UsageError("an interval needs at least one row")
    added, rng = np.asarray(parts, dtype=np.float64), np.random.default_rng(seed)
    n, sums = len(added), np.empty((resamples, added.shape[1]))
    for resample in sums:
        resample[:] = np.bincount(rng.integers(n, size=n), minlength=n) @ added
    found = statistics(sums)
    none = np.full(2, np.nan)
    known = (column[np.isfinite(column)] for column in found.T)
    return np.stack([np.percentile(column, (2.5, 97.5)) if column.size else none for column in known])


def draws_interval(
    values: FloatArray,
    strata: IntArray,
    *,
    seed: int,
    units: IntArray | None = None,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of the mean over repeated draws and over strata of what rows are worth in each draw.

    values `(r, n)`: row i in draw r; strata `(n,)` from 0. The mean is over the rows of a stratum, then over
    strata. Draws are resampled, and rows within their strata, each of which keeps its number of rows; where
    units `(n,)` from 0 are told, these are resampled instead, each with its rows in all strata (it needs some
    in each). With one draw it says nothing about other draws.
    """
    if not values.size:
        raise UsageError("an interval needs at least one value")
    rng, (repeats, n) = np.random.default_rng(seed), values.shape
    order = np.argsort(strata, kind="stable")
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    worth, means = values[:, order], np.empty(resamples)
    count = 0 if units is None else int(units.max()) + 1
    for b in range(resamples):
        if units is None:
            rows = np.bincount(start + (rng.random(n) * size).astype(np.int64), minlength=n)
        else:
            rows = np.bincount(rng.integers(count, size=count), minlength=count)[units[order]]
        draws = np.bincount(rng.integers(repeats, size=repeats), minlength=repeats)
        sums = np.add.reduceat((draws @ worth) * rows, first)
        means[b] = (sums / (repeats * np.add.reduceat(rows, first))).mean()
    return percentiles(means)


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of b − a for independent figures, each `(low, value, high)`, when no rows are known.

    The distances from value to end add in squares (Zou and Donner 2008, "MOVER").
    """
    value = b[1] - a[1]
    low = value - math.hypot(b[1] - b[0], a[2] - a[1])
    high = value + math.hypot(b[2] - b[1], a[1] - a[0])
    return low, high


def shared_mean_interval(
    sums: FloatArray, counts: AnyArray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Interval of the mean over parts (languages) of `sum of sums / sum of counts`, rows drawn as wholes.

    sums and counts `(n, l)`: what each row (an image) brings to each of l parts, and of how many. The parts
    are measured on the same rows, so one draw serves them all; each needs a count above 0.
    """
    if not len(sums) or (counts.sum(axis=0) == 0).any():
        raise UsageError("an interval needs at least one value in each part")
    kinds, which = np.unique(np.concatenate([sums, counts], axis=1), axis=0, return_inverse=True)
    _, draws = _resamples(which.ravel(), seed, resamples)
    width = sums.shape[1]
    means = []
    for drawn in draws:
        of_parts, over = drawn @ kinds[:, :width], drawn @ kinds[:, width:]
        shares = np.divide(of_parts, over, out=np.full(of_parts.shape, np.nan), where=over > 0)
        means.append(np.nanmean(shares, axis=1))
    return percentiles(np.concatenate(means))


def class_average_interval(
    values: FloatArray, labels: IntArray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """As `class_mean_interval`, of values `(n,)` that need not be 0 or 1; labels `(n,)`."""
    present, of = np.unique(labels, return_inverse=True)
    total = np.zeros(resamples)
    for c in range(len(present)):
        distinct, draws = _resamples(values[of == c], seed + c, resamples)
        total += np.concatenate([counts @ distinct for counts in draws]) / np.count_nonzero(of == c)
    return percentiles(total / len(present))


def _resamples(values: AnyArray, seed: int, resamples: int) -> tuple[FloatArray, Iterator[IntArray]]:
    if not len(values):
        raise UsageError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // len(distinct))
    shares = counts / counts.sum()
    sizes = (min(step, resamples - at) for at in range(0, resamples, step))
    return distinct, (rng.multinomial(len(values), shares, size=size) for size in sizes)


def percentiles(of: FloatArray) -> tuple[float, float]:
    """2.5th and 97.5th percentile of what was resampled `(b,)`."""
    low, high = np.percentile(of, (2.5, 97.5))
    return float(low), float(high)
