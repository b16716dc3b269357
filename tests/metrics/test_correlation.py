from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from embedstore.errors import UsageError
from embedstore.metrics.correlation import crossed_draws, interval, pearson, point_draws, spearman


@pytest.mark.parametrize(
    ("x", "y", "r", "rho"),
    [
        ([1, 2, 3], [2, 4, 6], 1, 1),
        ([1, 2, 3], [6, 4, 2], -1, -1),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8, 0.8),
        # thirds: the deviations are -4, -1, 5 and -10, -7, 17
        ([1, 2, 4], [0, 1, 9], (40 + 7 + 85) / math.sqrt((16 + 1 + 25) * (100 + 49 + 289)), 1),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0, 0),
        ([1, 1, 2], [1, 2, 3], math.sqrt(3) / 2, math.sqrt(3) / 2),
    ],
)
def test_by_hand(x: list[float], y: list[float], r: float, rho: float) -> None:
    left, right = np.array(x, float), np.array(y, float)
    assert pearson(left, right) == pytest.approx([r], abs=1e-12)
    assert spearman(left, right) == pytest.approx([rho], abs=1e-12)


values = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30).filter(
    lambda pairs: all(len({pair[side] for pair in pairs}) > 1 for side in (0, 1))
)


@given(values)
def test_as_scipy_has_them(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, float).T
    assert pearson(x, y)[0] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y)[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(values, st.integers(0, 99))
def test_a_weight_is_so_many_copies_of_the_point(pairs: list[tuple[int, int]], seed: int) -> None:
    x, y = np.array(pairs, float).T
    weights = np.concatenate(list(point_draws(len(x), seed=seed, resamples=5)))
    assert (weights.sum(1) == len(x)).all()
    for of in (pearson, spearman):
        copies = [of(*(np.repeat(v, line.astype(int)) for v in (x, y)))[0] for line in weights]
        np.testing.assert_allclose(of(x, y, weights), copies, atol=1e-12, equal_nan=True)


def test_a_side_that_does_not_vary_gives_nan_and_no_interval() -> None:
    x, y = np.full(5, 0.1), np.arange(5.0)
    assert np.isnan(pearson(x, y)).all()
    assert np.isnan(spearman(y, x)).all()
    with pytest.raises(UsageError, match="do not vary"):
        interval(pearson, x, y, point_draws(5, seed=0))


def test_the_interval_of_many_points_is_that_of_the_normal_theory() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    y = 0.6 * x + 0.8 * rng.normal(size=2000)
    r = pearson(x, y)[0]
    reach = 1.96 / math.sqrt(2000 - 3)  # Fisher's z
    low, high = interval(pearson, x, y, point_draws(2000, seed=1))
    assert (low, high) == pytest.approx(
        (math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)), abs=0.01
    )


def test_crossed_draws_take_whole_rows_and_columns() -> None:
    rows, columns = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
    (weights,) = crossed_draws(rows, columns, seed=0, resamples=200)
    table = weights.reshape(200, 3, 2)
    # Every line of weights is a product of one number a row and one a column.
    assert np.linalg.matrix_rank(table).max() == 1
    assert (table.sum((1, 2)) == 6).all()


def test_points_that_share_rows_make_wider_intervals() -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.repeat(np.arange(8), 8), np.tile(np.arange(8), 8)
    shared = rng.normal(size=8)[rows]
    x, y = shared + 0.1 * rng.normal(size=64), shared + rng.normal(size=64)
    low, high = interval(pearson, x, y, crossed_draws(rows, columns, seed=0))
    alone = interval(pearson, x, y, point_draws(64, seed=0))
    assert high - low > 1.3 * (alone[1] - alone[0])


@pytest.mark.parametrize(
    ("x", "y", "weights"),
    [
        (np.zeros(3), np.zeros(4), None),
        (np.zeros((3, 1)), np.zeros(3), None),
        (np.zeros(3), np.zeros(3), np.ones((2, 4))),
    ],
)
def test_shapes_that_do_not_meet_are_refused(x, y, weights) -> None:
    with pytest.raises(UsageError, match="weights"):
        pearson(x, y, weights)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UsageError, match="not finite"):
        spearman(np.array([1, 2, np.nan]), np.arange(3.0))
