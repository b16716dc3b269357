"""95 % intervals by the percentile bootstrap (Efron 1979), seeded and without a loop over resamples.

A resample of q values is a multinomial draw of how often each *distinct* value occurs, so hits cost two
numbers a resample, not q. Known limit: where all values are equal the interval has no width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.metrics.accuracy import ClassRecall
    from embedstore.shapes import AnyArray, FloatArray, IntArray

RESAMPLES = 1000
_DRAWS_AT_ONCE = 4_000_000


def mean_interval(values: AnyArray, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the mean of `values (q,)`, resampled over the queries."""
    distinct, draws = _resamples(values, seed, resamples)
    return percentiles(np.concatenate([counts @ distinct / len(values) for counts in draws]))


def median_interval(values: AnyArray, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the median of `values (q,)`, resampled over the queries."""
    distinct, draws = _resamples(values, seed, resamples)
    lower, upper = (len(values) - 1) // 2, len(values) // 2
    medians = []
    for counts in draws:
        below = np.cumsum(counts, axis=1)
        pair = (np.count_nonzero(below <= place, axis=1) for place in (lower, upper))
        medians.append(sum(distinct[at] for at in pair) / 2)
    return percentiles(np.concatenate(medians))


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
