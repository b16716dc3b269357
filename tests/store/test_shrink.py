"""Pooling, merging and the mean, against slow float64 twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.policies import parse_policy
from embedstore.store.coding.shrink import mean_token, merge, pool_2x2, shrink_tokens


def tokens(seed, count, t, width, scale=1.0):
    random = np.random.default_rng(seed)
    return (scale * random.normal(size=(count, t, width))).astype(np.float32)


def weighted_mean(values, weights):
    shares = np.full(values.shape[:2], 1 / values.shape[1]) if weights is None else weights.astype(np.float64)
    return np.einsum("bt,btd->bd", shares, values.astype(np.float64))


@given(
    seed=st.integers(0, 2**32),
    t=st.integers(1, 20),
    k=st.integers(1, 20),
    scale=st.sampled_from([1e-3, 1, 300]),
)
def test_weighted_centroids_keep_the_mean(seed, t, k, scale):
    k = min(k, t)
    x = tokens(seed, 3, t, 5, scale)
    centres, weights = merge(x, k)
    assert centres.shape == (3, k, 5)
    assert weights.shape == (3, k)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        weighted_mean(centres, weights), x.mean(axis=1, dtype=np.float64), atol=4e-6 * scale
    )


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_pooling_is_the_mean_of_each_cell_and_keeps_the_mean(seed, rows, columns):
    x = tokens(seed, 2, rows * columns, 3)
    pooled, weights = pool_2x2(x, (rows, columns))
    grid = x.reshape(2, rows, columns, 3).astype(np.float64)
    cells = [
        grid[:, i : i + 2, j : j + 2].reshape(2, -1, 3).mean(axis=1)
        for i in range(0, rows, 2)
        for j in range(0, columns, 2)
    ]
    np.testing.assert_allclose(pooled, np.stack(cells, axis=1), atol=1e-6)
    assert (weights is None) == (rows % 2 == 0 and columns % 2 == 0)
    np.testing.assert_allclose(weighted_mean(pooled, weights), x.mean(axis=1, dtype=np.float64), atol=1e-6)


@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["pool-2x2+merge-4", "merge-6", "cls+mean", "pool-2x2+cls+mean"]),
)
def test_combinations_keep_the_mean(seed, name):
    policy, x = parse_policy(name), tokens(seed, 2, 15, 4)
    left, weights = shrink_tokens(policy, x, (3, 5))
    assert left.shape == (2, policy.tokens(15, (3, 5)), 4)
    assert (weights is not None) == policy.weighted((3, 5))
    np.testing.assert_allclose(weighted_mean(left, weights), x.mean(axis=1, dtype=np.float64), atol=2e-6)


def test_as_many_centroids_as_tokens_are_the_tokens():
    x = tokens(0, 4, 7, 6)
    centres, weights = merge(x, 7)
    np.testing.assert_allclose(np.sort(centres, axis=1), np.sort(x, axis=1), atol=1e-6)
    np.testing.assert_allclose(weights, 1 / 7, atol=1e-7)


def test_separate_groups_are_found_whole():
    random = np.random.default_rng(3)
    middles = 50 * random.normal(size=(5, 8))
    member = np.repeat(np.arange(5), [1, 2, 3, 4, 10])
    x = (middles[member] + 0.01 * random.normal(size=(20, 8))).astype(np.float32)
    centres, weights = merge(x[None], 5)
    order = np.argsort(weights[0], kind="stable")
    np.testing.assert_allclose(weights[0][order] * 20, [1, 2, 3, 4, 10], atol=1e-5)
    np.testing.assert_allclose(centres[0][order], [x[member == g].mean(axis=0) for g in range(5)], atol=1e-4)


def test_equal_tokens_leave_centroids_without_weight():
    x = np.ones((1, 6, 2), np.float32)
    centres, weights = merge(x, 3)
    assert np.isfinite(centres).all()
    assert sorted(weights[0].tolist())[:2] == [0, 0]
    np.testing.assert_allclose(weighted_mean(centres, weights), 1)


def test_a_picture_is_merged_alike_whoever_stands_beside_it():
    x = tokens(5, 6, 30, 16)
    together, shares = merge(x, 4)
    for i in range(6):
        alone, share = merge(x[i : i + 1], 4)
        np.testing.assert_array_equal(alone[0], together[i])
        np.testing.assert_array_equal(share[0], shares[i])


def test_merging_is_no_worse_than_random_seeds_of_the_slow_twin():
    x = tokens(7, 1, 60, 4)
    centres, _ = merge(x, 6)

    def spread(found):
        gaps = ((x[0][:, None].astype(np.float64) - found[None]) ** 2).sum(-1)
        return gaps.min(axis=1).sum()

    def slow(seed):
        found = x[0][np.random.default_rng(seed).choice(60, 6, replace=False)].astype(np.float64)
        for _ in range(12):
            member = ((x[0][:, None] - found[None]) ** 2).sum(-1).argmin(axis=1)
            found = np.stack(
                [x[0][member == k].mean(axis=0) if (member == k).any() else found[k] for k in range(6)]
            )
        return spread(found)

    assert spread(centres[0]) <= np.median([slow(s) for s in range(9)]) * 1.1


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_token(weighted):
    x = tokens(1, 3, 5, 2)
    weights = np.random.default_rng(0).dirichlet(np.ones(5), size=3).astype(np.float32) if weighted else None
    found = mean_token(x, weights)
    assert found.shape == (3, 1, 2)
    np.testing.assert_allclose(found[:, 0], weighted_mean(x, weights), atol=1e-6)
