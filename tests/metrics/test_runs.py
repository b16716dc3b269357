"""Intervals over runs: Student's table and the coverage."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import UsageError
from embedstore.metrics.runs import t_interval, t_quantile


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_printed_table(freedom: int, table: float) -> None:
    assert t_quantile(freedom) == pytest.approx(table, abs=5e-4)


def test_t_interval_by_hand_and_its_coverage() -> None:
    low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 / np.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    held = np.mean([low < 3 < high for low, high in map(t_interval, draws)])
    assert 0.94 < held < 0.96
    with pytest.raises(UsageError, match="two of them"):
        t_interval(np.array([1.0]))
