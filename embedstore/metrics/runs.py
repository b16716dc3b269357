"""How sure a mean over a few runs is: 95 % intervals over the runs, and over the runs and the test rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.intervals import RESAMPLES

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray, IntArray


def t_interval(values: FloatArray) -> tuple[float, float]:
    """Student's interval of the mean of `values (r,)`, one of each run; of pairs, give their differences.

    What it says of is other runs on the same test rows. `UsageError` for fewer than two runs.
    """
    if len(values) < 2:
        raise UsageError("an interval over runs needs two of them", found=len(values))
    half = t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def t_quantile(freedom: int) -> float:
    """The number that |t| exceeds in 5 % of draws, for so many degrees of freedom, 1 or more."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < 0.95 else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Probability that |t| is below √freedom · tan(angle): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total


def crossed_interval(
    values: FloatArray, classes: IntArray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap of the mean over classes of `values (r, q)`, of r runs on the same q rows.

    Runs and, within each class of `classes (q,)`, rows are drawn anew by themselves (Owen 2007), so that the
    interval is of other runs and other test rows; it is rather too wide than too narrow.
    """
    if values.shape[1:] != classes.shape or not values.size:
        raise UsageError("a value of each run for each row", found=f"{values.shape}, {classes.shape}")
    rng = np.random.default_rng(seed)
    runs = len(values)
    drawn_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    present = np.unique(classes)
    weights = np.empty((resamples, len(classes)))
    for label in present:
        own = np.flatnonzero(classes == label)
        drawn = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
        weights[:, own] = drawn / (len(own) * len(present))
    found = ((drawn_runs @ values) * weights).sum(axis=1)
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
