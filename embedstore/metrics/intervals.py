"""95 % intervals by the percentile bootstrap (Efron 1979), seeded and without a loop over resamples.

A resample of q values is a multinomial draw of how often each *distinct* value occurs, so hits cost two
numbers a resample, not q. Known limit: where all values are equal the interval has no width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedstore.metrics.accuracy import ClassRecall
    from embedstore.shapes import AnyArray, FloatArray, IntArray

RESAMPLES = 1000
_DRAWS_AT_ONCE = 4_000_000


def mean_interval(values: AnyArray, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the mean of `values (q,)`, resampled over the queries."""
    distinct, draws = _resamples(values, seed, resamples)
    return _percentiles(np.concatenate([counts @ distinct / len(values) for counts in draws]))


def median_interval(values: AnyArray, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the median of `values (q,)`, resampled over the queries."""
    distinct, draws = _resamples(values, seed, resamples)
    lower, upper = (len(values) - 1) // 2, len(values) // 2
    medians = []
    for counts in draws:
        below = np.cumsum(counts, axis=1)
        pair = (np.count_nonzero(below <= place, axis=1) for place in (lower, upper))
        medians.append(sum(distinct[at] for at in pair) / 2)
    return _percentiles(np.concatenate(medians))


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
    return _percentiles((draws / rows).mean(axis=1))


def crossed_mean_interval(
    ways: Sequence[FloatArray], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Interval of the mean over `ways` of the mean of values `(s, q)`, by heads s and queries q.

    Heads, the same for all ways, and the queries of each way are both drawn with replacement: the interval is
    of other heads and other queries. With one head it is of the queries alone.
    """
    heads = len(ways[0])
    if not heads or not all(way.size and len(way) == heads for way in ways):
        raise UsageError("an interval needs values of the same heads", found=[way.shape for way in ways])
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(heads, np.full(heads, 1 / heads), size=resamples) / heads
    means = np.zeros(resamples)
    for way in ways:
        columns, counts = np.unique(np.asarray(way, dtype=np.float64), axis=1, return_counts=True)
        total = counts.sum()
        queries = rng.multinomial(total, counts / total, size=resamples) / total
        means += np.einsum("bs,sd,bd->b", drawn, columns, queries) / len(ways)
    return _percentiles(means)


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of b − a for independent figures, each `(low, value, high)`, when no rows are known.

    The distances from value to end add in squares (Zou and Donner 2008, "MOVER").
    """
    value = b[1] - a[1]
    low = value - math.hypot(b[1] - b[0], a[2] - a[1])
    high = value + math.hypot(b[2] - b[1], a[1] - a[0])
    return low, high


def _resamples(values: AnyArray, seed: int, resamples: int) -> tuple[FloatArray, Iterator[IntArray]]:
    if not len(values):
        raise UsageError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // len(distinct))
    shares = counts / counts.sum()
    sizes = (min(step, resamples - at) for at in range(0, resamples, step))
    return distinct, (rng.multinomial(len(values), shares, size=size) for size in sizes)


def _percentiles(of: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(of, (2.5, 97.5))
    return float(low), float(high)
