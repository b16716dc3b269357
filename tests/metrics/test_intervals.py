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
    draws_interval,
    mean_interval,
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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 99))
def test_intervals_stay_inside_the_values(values: list[int], seed: int) -> None:
    low, high = mean_interval(values, seed=seed, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_all_equal_values_have_an_interval_without_width() -> None:
    assert mean_interval(np.ones(50), seed=0) == pytest.approx((1.0, 1.0))


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


def test_intervals_over_draws_know_both_draws_and_rows() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.random((1, 400)) < 0.5, 6, axis=0).astype(float)
    one_stratum = np.zeros(400, np.int64)

    def width(values):
        low, high = draws_interval(values, one_stratum, seed=1)
        assert low <= values.mean() <= high
        return high - low

    # All draws alike: the width of a share of one half of 400. Draws that differ are less certain.
    assert width(rows) == pytest.approx(4 * 0.5 / 20, rel=0.15)
    apart = np.clip(rows + np.array([-0.4, 0.4, -0.4, 0.4, -0.4, 0.4])[:, None], 0, 1)
    assert width(apart) > 2 * width(rows)
    assert width(np.ones((3, 400))) == 0


def test_intervals_over_strata_weigh_each_alike() -> None:
    values = np.array([[1.0] * 9 + [0.0, 0.0]])
    strata = np.array([0] * 9 + [3] * 2)
    assert draws_interval(values, strata, seed=0) == (0.5, 0.5)
    with pytest.raises(UsageError, match="at least one"):
        draws_interval(np.empty((1, 0)), np.empty(0, np.int64), seed=0)


def test_rows_of_one_unit_are_drawn_together_in_all_strata() -> None:
    rng = np.random.default_rng(5)
    few = rng.random((3, 80))
    # Four equal rows a unit in one stratum and one in another tell as much as the units alone.
    values = np.concatenate([np.repeat(few, 4, axis=1), few], axis=1)
    units = np.concatenate([np.repeat(np.arange(80), 4), np.arange(80)])
    strata = np.repeat([0, 1], [320, 80])
    found = draws_interval(values, strata, units=units, seed=2)
    assert found == pytest.approx(draws_interval(few, np.zeros(80, np.int64), units=np.arange(80), seed=2))
    low, high = draws_interval(values, strata, seed=2)
    assert high - low < 0.8 * (found[1] - found[0])
