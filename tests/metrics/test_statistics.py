from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.metrics import accuracy, intervals
from embedstore.metrics.statistics import Sample, Statistic, resampled, values_of

NAN = float("nan")


def sample(units, strata=None, **values):
    strata = [-1] * len(units) if strata is None else strata
    return Sample(
        units=np.array(units),
        strata=np.array(strata),
        stratum_names=tuple("abcdef"[: max([*strata, -1]) + 1]),
        values={name: np.array(column, dtype=float) for name, column in values.items()},
    )


# Two pictures: the first has classes a (1 of 2 pixels) and b (3 of 4), the second only a (2 of 6).
PICTURES = sample([0, 0, 1], [0, 1, 0], both=[1, 3, 2], either=[2, 4, 6], own=[0.5, NAN, 0.1])


@pytest.mark.parametrize(
    ("statistic", "wanted"),
    [
        (Statistic(kind="mean", value="both"), 2.0),
        (Statistic(kind="mean", value="both", at_most=2), 2 / 3),
        (Statistic(kind="mean", value="own"), 0.3),
        (Statistic(kind="median", value="both"), 2.0),
        (Statistic(kind="median", value="own"), 0.3),
        (Statistic(kind="ratio", value="both", over="either"), 6 / 12),
        (Statistic(kind="stratum-mean", value="both"), (1.5 + 3) / 2),
        (Statistic(kind="stratum-ratio", value="both", over="either"), (3 / 8 + 3 / 4) / 2),
        (Statistic(kind="stratum-ratio", value="both", over="either", without="b"), 3 / 8),
        (Statistic(kind="stratum-ratio", value="both", over="either", without="of another list"), 9 / 16),
    ],
)
def test_truth_table(statistic, wanted) -> None:
    assert values_of(PICTURES, {"x": statistic})["x"] == pytest.approx(wanted)


def test_nothing_to_count_is_nan_and_what_is_not_there_is_an_error() -> None:
    empty = sample([0, 1], none=[NAN, NAN])
    for kind in ("mean", "median", "stratum-mean"):
        assert math.isnan(values_of(empty, {"x": Statistic(kind=kind, value="none")})["x"])
    with pytest.raises(UsageError, match=r"no outcome rank[\s\S]*allowed: none"):
        values_of(empty, {"x": Statistic(kind="mean", value="rank")})
    with pytest.raises(UsageError, match="ratio"):
        Statistic(kind="mean", value="both", over="either")
    with pytest.raises(UsageError, match="ratio"):
        Statistic(kind="ratio", value="both")
    with pytest.raises(UsageError, match="no row"):
        resampled(sample([]), {}, seed=0)


ranks = st.lists(st.integers(1, 12), min_size=1, max_size=40)


@given(ranks)
def test_mean_and_median_are_numpys(values) -> None:
    found = values_of(
        sample(range(len(values)), rank=values),
        {
            "mean": Statistic(kind="mean", value="rank"),
            "median": Statistic(kind="median", value="rank"),
            "recall@5": Statistic(kind="mean", value="rank", at_most=5),
        },
    )
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["median"] == np.median(values)
    assert found["recall@5"] == pytest.approx(np.mean(np.array(values) <= 5))


@given(ranks, st.integers(0, 99))
def test_a_resample_is_what_the_drawn_rows_would_give(values, seed) -> None:
    # Each row's own number recovers which rows were drawn, from the mean of powers of two.
    rows = np.array(values[:10], dtype=float)
    rng = np.random.default_rng(seed)
    drawn = [(rng.random(len(rows)) * len(rows)).astype(int) for _ in range(3)]
    statistics = {
        "mean": Statistic(kind="mean", value="rank"),
        "median": Statistic(kind="median", value="rank"),
    }
    found = resampled(sample(range(len(rows)), rank=rows), statistics, seed=seed, resamples=3)
    np.testing.assert_allclose(found["mean"], [rows[d].mean() for d in drawn])
    np.testing.assert_allclose(found["median"], [np.median(rows[d]) for d in drawn])


def test_units_are_drawn_as_wholes() -> None:
    # Both rows of a unit agree, so a figure over rows can only take the values of a figure over units.
    doubled = sample([0, 0, 1, 1], right=[1, 1, 0, 0])
    found = resampled(doubled, {"x": Statistic(kind="mean", value="right")}, seed=0)["x"]
    assert set(found.tolist()) == {0.0, 0.5, 1.0}


def test_a_mean_over_strata_keeps_the_rows_of_each_stratum() -> None:
    # One row of class a, always right: were it ever not drawn, the mean would be that of class b alone.
    rare = sample(range(9), [0] + [1] * 8, right=[1] + [0] * 8)
    found = resampled(rare, {"x": Statistic(kind="stratum-mean", value="right")}, seed=1)["x"]
    assert found.tolist() == [0.5] * len(found)
    # Units that lie in two strata cannot be kept in either: they are drawn as wholes.
    two = sample([0, 1, 0, 1], [0, 0, 1, 1], right=[1, 0, 1, 0])
    drawn = resampled(two, {"x": Statistic(kind="stratum-mean", value="right")}, seed=1)["x"]
    assert set(drawn.tolist()) == {0.0, 0.5, 1.0}


def test_intervals_agree_with_the_ones_of_the_reports() -> None:
    rng = np.random.default_rng(4)
    labels, right = rng.integers(0, 5, 300), (rng.random(300) < 0.7).astype(float)
    rows = sample(range(300), labels.tolist(), right=right.tolist())
    found = resampled(
        rows,
        {
            "share": Statistic(kind="mean", value="right"),
            "classes": Statistic(kind="stratum-mean", value="right"),
        },
        seed=0,
    )
    wanted = {
        "share": intervals.mean_interval(right, seed=0),
        "classes": intervals.class_mean_interval(accuracy.class_recall(right, labels, 5), seed=0),
    }
    for name, draws in found.items():
        np.testing.assert_allclose(np.percentile(draws, (2.5, 97.5)), wanted[name], atol=0.01)


def test_the_same_units_are_drawn_alike_whatever_their_values() -> None:
    one = sample([2, 0, 1, 3], rank=[1, 5, 3, 2])
    same, other = sample([0, 1, 2, 3], rank=[5, 3, 1, 2]), sample([0, 1, 2, 3], rank=[6, 4, 2, 3])
    statistic = {"x": Statistic(kind="mean", value="rank")}
    drawn = [resampled(s, statistic, seed=3)["x"] for s in (one, same, other)]
    np.testing.assert_allclose(drawn[0], drawn[1])
    np.testing.assert_allclose(drawn[2] - drawn[1], 1.0)


def test_a_difference_of_nothing_is_taken_for_one_about_once_in_twenty() -> None:
    rng, statistic, wrong = np.random.default_rng(3), {"x": Statistic(kind="mean", value="right")}, 0
    for _ in range(100):
        drawn = [
            resampled(sample(range(100), right=rng.random(100) < 0.5), statistic, seed=7, resamples=200)["x"]
            for _ in "ab"
        ]
        low, high = np.percentile(drawn[1] - drawn[0], (2.5, 97.5))
        wrong += not low <= 0 <= high
    assert 1 <= wrong <= 12
