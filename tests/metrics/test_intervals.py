from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.metrics.accuracy import ClassRecall, class_recall
from embedstore.metrics.intervals import (
    class_mean_interval,
    difference_interval,
    mean_interval,
    median_interval,
)


def slow_bootstrap(values: np.ndarray, statistic, resamples: int, seed: int) -> tuple[float, float]:
    """The textbook loop: draw q values with replacement, again and again."""
    rng = np.random.default_rng(seed)
    found = [statistic(rng.choice(values, len(values))) for _ in range(resamples)]
    return tuple(np.percentile(found, (2.5, 97.5)))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=200)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("kind", ["hits", "ranks", "reals"])
def test_mean_interval_agrees_with_the_textbook_loop(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "hits": (rng.random(400) < 0.3).astype(float),
        "ranks": rng.geometric(0.2, 400).astype(float),
        "reals": rng.normal(size=400),
    }[kind]
    ours, slow = mean_interval(values, seed=0, resamples=8000), slow_bootstrap(values, np.mean, 8000, 5)
    assert ours == pytest.approx(slow, abs=0.08 * values.std() / np.sqrt(400) * 2)
    assert ours[0] < values.mean() < ours[1]


@pytest.mark.parametrize("q", [101, 200])
def test_median_interval_agrees_with_the_textbook_loop(q: int) -> None:
    values = np.random.default_rng(2).integers(1, 60, q)
    ours, slow = median_interval(values, seed=0, resamples=4000), slow_bootstrap(values, np.median, 4000, 5)
    assert ours == pytest.approx(slow, abs=1.0)
    assert ours[0] <= np.median(values) <= ours[1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 99))
def test_intervals_stay_inside_the_values(values: list[int], seed: int) -> None:
    for interval in (mean_interval, median_interval):
        low, high = interval(values, seed=seed, resamples=50)
        assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_all_equal_values_have_an_interval_without_width() -> None:
    assert mean_interval(np.ones(50), seed=0) == pytest.approx((1.0, 1.0))
    assert median_interval(np.full(50, 7), seed=0) == (7.0, 7.0)


def test_many_distinct_values_are_drawn_in_parts() -> None:
    values = np.arange(30_000, dtype=float)
    low, high = mean_interval(values, seed=0, resamples=200)
    expected = 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(2 * expected, rel=0.25)


def test_class_means_are_resampled_within_each_class() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 3], [200, 40, 10])
    right = (rng.random(len(labels)) < 0.6).astype(float)
    found = class_recall(right, labels, 4)
    spread = np.sqrt(sum(p * (1 - p) / m for p, m in zip(found.recall, found.rows, strict=True) if m)) / 3
    low, high = class_mean_interval(found, seed=0, resamples=8000)
    assert (low, high) == pytest.approx((found.mean - 1.96 * spread, found.mean + 1.96 * spread), abs=0.02)


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one value"):
        mean_interval([], seed=0)
    with pytest.raises(UsageError, match="no class"):
        class_mean_interval(ClassRecall(recall=np.array([np.nan]), rows=np.array([0])), seed=0)


def test_the_interval_of_a_difference_of_two_intervals_adds_their_distances_in_squares() -> None:
    # 3-4-5 triangles: the low end is 4 below A's high end and 3 below B's value.
    assert difference_interval((10, 13, 17), (27, 30, 42)) == pytest.approx((17 - 5, 17 + 12.3693), abs=1e-4)
    assert difference_interval((1, 1, 1), (2, 2, 2)) == (1, 1)
    a, b = (0.4, 0.5, 0.6), (0.5, 0.6, 0.7)
    low, high = difference_interval(a, b)
    assert difference_interval(b, a) == pytest.approx((-high, -low))
