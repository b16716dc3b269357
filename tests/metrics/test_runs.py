"""Intervals over runs: Student's table, its coverage, and a textbook loop for the crossed bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import UsageError
from embedstore.metrics.runs import crossed_interval, t_interval, t_quantile


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


def test_crossed_interval_agrees_with_the_textbook_loop() -> None:
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1, 5], [60, 30, 10])
    values = rng.normal(size=(5, 1)) * 0.2 + rng.normal(size=100) + rng.normal(size=(5, 100)) * 0.3
    found = []
    for _ in range(4000):
        runs = rng.integers(5, size=5)
        rows = [rng.choice(np.flatnonzero(classes == c), (classes == c).sum()) for c in (0, 1, 5)]
        found.append(np.mean([values[np.ix_(runs, own)].mean() for own in rows]))
    ours = crossed_interval(values, classes, seed=0, resamples=4000)
    assert ours == pytest.approx(tuple(np.percentile(found, (2.5, 97.5))), abs=0.03)
    assert ours == crossed_interval(values, classes, seed=0, resamples=4000)


def test_crossed_interval_is_of_runs_alone_where_rows_agree_and_of_rows_alone_where_runs_do() -> None:
    runs = np.array([[0.0], [1.0]])
    assert crossed_interval(np.repeat(runs, 7, axis=1), np.zeros(7, np.int64), seed=0) == (0.0, 1.0)
    row = np.array([0.0, 1.0, 1.0, 1.0])
    low, high = crossed_interval(np.stack([row, row]), np.array([0, 1, 1, 1]), seed=0)
    assert (low, high) == pytest.approx((0.5, 0.5))
    with pytest.raises(UsageError, match="each run for each row"):
        crossed_interval(np.zeros((2, 3)), np.zeros(2, np.int64), seed=0)
