"""CKA and HSIC against sums over whole Gram matrices written from the papers, in float64."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.metrics import cka as cka_module
from embedstore.metrics.cka import LinearCKA, Moments, cka_influence, linear_cka, rbf_cka
from embedstore.metrics.hsic import hsic, influence, linear_kernel, rbf_kernel, row_parts


def slow_biased(k, m):
    """Gretton et al. 2005: tr(K H L H)."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ m @ h)


def slow_unbiased(k, m):
    """Song et al. 2012, equation 5, times n(n-3), word by word."""
    n = len(k)
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    return (
        np.trace(k @ m)
        + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    )


def slow_cka(k, m):
    return tuple(f(k, m) / np.sqrt(f(k, k) * f(m, m)) for f in (slow_biased, slow_unbiased))


def slow_rbf(x, sigma=None):
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    if sigma is None:
        sigma = np.median([distances[i, j] for i in range(len(x)) for j in range(i)])
    return np.exp(-(distances**2) / (2 * sigma**2)), sigma


def two_sides(n=40, d1=5, d2=7, seed=0, shift=3.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4))
    x = z @ rng.normal(size=(4, d1)) + 0.3 * rng.normal(size=(n, d1)) + shift
    y = np.tanh(z @ rng.normal(size=(4, d2))) + 0.3 * rng.normal(size=(n, d2)) - 2 * shift
    return x, y


def both(found):
    return found.biased, found.unbiased


SIZES = st.tuples(st.integers(4, 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))


@given(SIZES)
def test_linear_cka_is_the_sum_over_gram_matrices(sizes):
    n, d1, d2, seed = sizes
    x, y = two_sides(n, d1, d2, seed)
    want = slow_cka(x @ x.T, y @ y.T)
    streamed = LinearCKA()
    streamed.update(x, y)
    # The unbiased estimate divides by differences of much larger sums.
    scale = 1e-7 * max(1, abs(want[1]))
    np.testing.assert_allclose(both(streamed.value), want, rtol=1e-8, atol=scale)
    np.testing.assert_allclose(both(linear_cka(x, y)), want, rtol=1e-8, atol=scale)


def test_hsic_of_kernels_and_of_moments_are_the_papers_sums():
    x, y = two_sides()
    k, m = linear_kernel(x), linear_kernel(y)
    want = slow_biased(x @ x.T, y @ y.T), slow_unbiased(x @ x.T, y @ y.T)
    np.testing.assert_allclose(both(hsic(k, m)), want, rtol=1e-10)
    np.testing.assert_allclose(both(Moments.of(x, y).hsic), want, rtol=1e-10)
    k, m = slow_rbf(x)[0], slow_rbf(y)[0]
    np.testing.assert_allclose(both(hsic(k, m)), (slow_biased(k, m), slow_unbiased(k, m)), rtol=1e-10)


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 10**6))
def test_any_cut_into_blocks_and_any_merge_gives_the_same(cuts, seed):
    x, y = two_sides(seed=seed)
    whole, blocks, merged = LinearCKA(), LinearCKA(), LinearCKA()
    whole.update(x, y)
    edges = [0, *sorted(cuts), len(x)]
    for low, high in pairwise(edges):
        blocks.update(x[low:high], y[low:high])
        part = LinearCKA()
        part.update(x[low:high], y[low:high])
        merged.merge(part)
    assert blocks.rows == merged.rows == whole.rows == 40
    np.testing.assert_allclose(both(blocks.value), both(whole.value), rtol=1e-10)
    np.testing.assert_allclose(both(merged.value), both(whole.value), rtol=1e-10)


def test_moments_add_up_in_every_sum(monkeypatch):
    x, y = two_sides()
    whole = Moments.of(x, y)
    added = Moments.of(x[:11], y[:11]) + Moments.of(x[11:], y[11:])
    monkeypatch.setattr(cka_module, "BLOCK", 7)
    for found in (added, Moments.of(x, y)):
        for name in Moments.__slots__:
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    left, right = x - x.mean(0), y - y.mean(0)
    np.testing.assert_allclose(whole.third_x, ((right**2).sum(1)[:, None] * left).sum(0))
    np.testing.assert_allclose(whole.fourth, ((right**2).sum(1) * (left**2).sum(1)).sum())


def test_a_far_mean_costs_no_digits():
    x, y = two_sides(n=500, shift=0)
    near, far = linear_cka(x, y), linear_cka(x + 1e5, y - 1e5)
    np.testing.assert_allclose(both(far), both(near), rtol=1e-9)


@pytest.mark.parametrize("measure", [linear_cka, rbf_cka])
@pytest.mark.parametrize("sizes", [(300, 5, 7), (20, 50, 60)])
def test_rotation_scale_shift_and_the_order_of_sides_change_nothing(measure, sizes):
    x, y = two_sides(*sizes)
    want = both(measure(x, y))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(x.shape[1],) * 2))[0]
    np.testing.assert_allclose(both(measure(7.5 * x @ turn + 3, y)), want, rtol=1e-8)
    np.testing.assert_allclose(both(measure(y, x)), want, rtol=1e-10)
    np.testing.assert_allclose(both(measure(x, -0.1 * x @ turn)), (1, 1), rtol=1e-10)


@pytest.mark.parametrize("sizes", [(60, 3, 4), (30, 64, 80)])
def test_rbf_is_the_formula_with_the_median_distance(sizes):
    x, y = two_sides(*sizes)
    (k, sigma), (m, _) = slow_rbf(x), slow_rbf(y)
    got, width = rbf_kernel(x)
    assert width == pytest.approx(sigma, rel=1e-10)
    np.testing.assert_allclose(got, k, rtol=1e-9)
    np.testing.assert_allclose(both(rbf_cka(x, y)), slow_cka(k, m), rtol=1e-9)
    k, m = slow_rbf(x, 6.0)[0], slow_rbf(y, 4.0)[0]
    np.testing.assert_allclose(both(rbf_cka(x, y, sigma_x=6.0, sigma_y=4.0)), slow_cka(k, m), rtol=1e-9)


def test_a_wide_kernel_is_the_linear_one():
    """exp(-d²/2σ²) is 1 - d²/2σ² for large σ, and double centring makes inner products of distances."""
    x, y = two_sides()
    wide = rbf_cka(x, y, sigma_x=1e4, sigma_y=1e4)
    np.testing.assert_allclose(both(wide), both(linear_cka(x, y)), rtol=1e-4)


def test_values_known_by_hand():
    # Two orthogonal contrasts over four rows share nothing; their sum shares half of its square with each.
    a = np.array([[1.0], [1], [-1], [-1]])
    b = np.array([[1.0], [-1], [1], [-1]])
    assert linear_cka(a, b).biased == pytest.approx(0, abs=1e-12)
    # |aᵀ(a b)|² = 16 of |aᵀa| = 4 and |(a b)ᵀ(a b)| = 4√2: 16 / (4 · 4√2).
    assert linear_cka(a, np.hstack([a, b])).biased == pytest.approx(1 / np.sqrt(2))
    assert linear_cka(a + 5, -3 * a).biased == pytest.approx(1)


def test_one_column_each_is_the_squared_correlation():
    x, y = two_sides(200, 1, 1)
    assert linear_cka(x, y).biased == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


def test_strangers_look_alike_to_the_biased_estimate_only():
    rng = np.random.default_rng(0)
    found = [linear_cka(rng.normal(size=(60, 120)), rng.normal(size=(60, 120))) for _ in range(40)]
    assert min(c.biased for c in found) > 0.6
    unbiased = np.array([c.unbiased for c in found])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(40)
    assert unbiased.min() < 0


def test_both_estimates_meet_as_rows_grow():
    x, y = two_sides(n=20_000)
    found = linear_cka(x, y)
    assert found.biased == pytest.approx(found.unbiased, abs=1e-3)


def left_out(x, y):
    """Standard error of the unbiased CKA by leaving out every row once (Efron 1982)."""
    n = len(x)
    each = np.array([linear_cka(np.delete(x, i, 0), np.delete(y, i, 0)).unbiased for i in range(n)])
    return np.sqrt((n - 1) / n * ((each - each.mean()) ** 2).sum())


@pytest.mark.parametrize("sizes", [(100, 5, 7), (50, 60, 70)])
def test_influence_gives_the_error_that_leaving_out_rows_gives(sizes):
    x, y = two_sides(*sizes)
    xx, yy, xy = Moments.of(x, x), Moments.of(y, y), Moments.of(x, y)
    moves = cka_influence(xx, yy, xy, x=x, y=y)
    assert moves.std() / np.sqrt(len(x)) == pytest.approx(left_out(x, y), rel=0.12)
    assert abs(moves.mean()) < 0.1 * moves.std()
    k, m = linear_kernel(x), linear_kernel(y)
    parts = [len(x) * row_parts(*pair) for pair in ((k, k), (m, m), (k, m))]
    of = (hsic(k, k), hsic(m, m), hsic(k, m))
    np.testing.assert_allclose(influence(*parts, of=of), moves, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((5, 2)), np.zeros((6, 2)), "same rows"),
        (np.zeros(5), np.zeros((5, 1)), "same rows"),
        (np.array([[0.0], [1], [np.nan], [2]]), np.ones((4, 1)), "first side: vectors are not finite"),
        (np.full((9, 3), 0.1), np.random.default_rng(0).normal(size=(9, 2)), "first side do not vary"),
        (np.random.default_rng(0).normal(size=(9, 20)), np.full((9, 30), 0.1), "second side do not vary"),
        (np.array([[0.0], [1], [2]]), np.array([[0.0], [1], [3]]), "too few rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(x, y, words):
    with pytest.raises(UsageError, match=words):
        linear_cka(x, y)


def test_streams_refuse_what_does_not_meet():
    found = LinearCKA()
    with pytest.raises(UsageError, match="too few rows"):
        _ = found.value
    found.update(np.zeros((0, 2)), np.zeros((0, 3)))
    assert found.rows == 0
    x, y = two_sides()
    found.update(x, y)
    with pytest.raises(UsageError, match="widths differ"):
        found.update(x[:, 1:], y)
    with pytest.raises(UsageError, match="most vectors are equal"):
        rbf_cka(np.array([[0.0], [0], [0], [0], [1]]), x[:5])
