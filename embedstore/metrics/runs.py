"""How sure a mean over a few runs is: Student's 95 % interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray


def t_interval(values: FloatArray) -> tuple[float, float]:
    """Student's interval of the mean of `values (r,)`, one of each run; of pairs, give their differences.

    It speaks of other runs on the same test rows; `intervals.draws_interval` of other rows too. `UsageError`
    for fewer than two runs.
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
