"""One row after another: the blocked search against ten lines of NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.curate import greedy
from embedstore.curate.greedy import greedy_twins
from embedstore.curate.semdedup import meet
from embedstore.curate.vectors import unit
from embedstore.index.products import pair_scores


def planted(seed, *, bases=40, copies=3, width=6, noise=0.1):
    """Groups of rows around random directions, some of them equal, in a random order."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(bases, width))
    rows = np.repeat(base, copies, axis=0) + noise * random.normal(size=(bases * copies, width))
    rows[: bases // 4] = rows[0]
    return unit(random.permutation(rows))[0]


def slow(vectors, order, limit, clusters=None, visits=None):
    """The definition, in float64."""
    count = len(vectors)
    every = np.arange(count)
    scores = pair_scores(vectors, vectors, np.repeat(every, count), np.tile(every, count)).reshape(count, -1)
    twin, kept = np.full(count, -1), []
    for row in order:
        near = [k for k in kept if scores[row, k] > limit]
        if clusters is not None:
            near = [k for k in near if clusters[k] in visits[row]]
        if near:
            twin[row] = min(near, key=lambda k: (-scores[row, k], k))
        else:
            kept.append(row)
    return twin


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    eps=st.sampled_from([1e-6, 0.01, 0.05, 0.3, 0.9]),
    block=st.integers(1, 150),
    tile=st.integers(1, 60),
    most=st.sampled_from([1, 30, 1 << 22]),
)
def test_it_is_the_definition_for_every_block(seed, eps, block, tile, most):
    vectors = planted(seed)
    order = np.random.default_rng(seed + 1).permutation(len(vectors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "TILE", tile)
        patch.setattr(greedy, "MOST_EDGES", most)
        found = greedy_twins(vectors, order, 1 - eps, block=block)
    wanted = slow(vectors, order, 1 - eps)
    assert found.twin.tolist() == wanted.tolist()
    gone = np.flatnonzero(wanted >= 0)
    assert (found.score[gone] > 1 - eps).all()
    assert (found.twin[found.twin[gone]] == -1).all(), "a twin was dropped itself"
    rank = np.argsort(order)
    assert (rank[found.twin[gone]] < rank[gone]).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    probes=st.integers(1, 9),
    block=st.integers(1, 150),
    most=st.sampled_from([1, 30, 1 << 22]),
)
def test_in_clusters_too(seed, probes, block, most):
    vectors = planted(seed)
    order = np.random.default_rng(seed + 1).permutation(len(vectors))
    met = meet(vectors, eps=0.1, clusters=9, probes=probes, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "TILE", 8)
        patch.setattr(greedy, "MOST_EDGES", most)
        found = greedy_twins(vectors, order, 0.9, clusters=met.clusters, visits=met.visits, block=block)
    assert found.twin.tolist() == slow(vectors, order, 0.9, met.clusters, met.visits).tolist()


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.01, 0.05, 0.2]))
def test_as_many_probes_as_clusters_miss_no_pair(seed, eps):
    vectors = planted(seed)
    order = np.random.default_rng(seed).permutation(len(vectors))
    met = meet(vectors, eps=eps, clusters=11, probes=11, seed=seed)
    every = np.arange(len(vectors))
    found, total = met.met_pairs(vectors, order, every, every)
    assert found == total > 0
    assert met.recall(vectors, order) == (1.0, total)
    twins = greedy_twins(vectors, order, 1 - eps, clusters=met.clusters, visits=met.visits)
    assert twins.twin.tolist() == greedy_twins(vectors, order, 1 - eps).twin.tolist()


def test_fewer_probes_are_told_by_the_recall():
    vectors = planted(3, bases=200, copies=4, noise=0.25)
    order = np.arange(len(vectors))
    met = meet(vectors, eps=0.2, clusters=60, probes=1)
    recall, pairs = met.recall(vectors, order)
    scores = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    sampled = np.sort(np.random.default_rng(0).choice(len(vectors), 512, replace=False))
    true = (scores > 0.8) & ~np.eye(len(vectors), dtype=bool)
    same = met.clusters[:, None] == met.clusters[None, :]
    assert pairs == true[sampled].sum()
    assert recall == pytest.approx((true & same)[sampled].sum() / pairs)
    assert 0.1 < recall < 1


def test_a_chain_loses_only_its_second_link():
    angles = np.deg2rad([0, 15, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = greedy_twins(vectors, np.arange(3), 0.95)
    assert found.twin.tolist() == [-1, 0, -1]
    assert greedy_twins(vectors, np.array([1, 0, 2]), 0.95).twin.tolist() == [1, -1, 1]


def test_threads_make_no_difference():
    vectors = planted(5, bases=300, copies=4, width=48)
    order = np.random.default_rng(1).permutation(len(vectors))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            met = meet(vectors, eps=0.05, probes=3)
            twins = greedy_twins(vectors, order, 0.95, clusters=met.clusters, visits=met.visits)
            found.append((met.visits.tolist(), twins.twin.tolist(), twins.score.tolist()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_thousands_of_equal_rows_leave_one():
    vectors = np.tile(unit(np.random.default_rng(0).normal(size=(1, 8)))[0], (3000, 1))
    found = greedy_twins(vectors, np.arange(3000)[::-1].copy(), 0.99)
    assert np.flatnonzero(found.twin < 0).tolist() == [2999]


def test_no_rows_are_no_twins():
    found = greedy_twins(np.empty((0, 4), np.float32), np.empty(0, np.int64), 0.9)
    assert found.twin.shape == found.score.shape == (0,)


def test_unit_vectors_of_any_length():
    values = np.array([[3e38, 0], [1e-40, 1e-40], [0, 0], [np.nan, 1], [np.inf, 1], [-2, 0]], np.float32)
    vectors, lengths = unit(values)
    assert vectors[0].tolist() == [1, 0]
    np.testing.assert_allclose(vectors[1], 0.5**0.5, rtol=1e-6)
    assert (lengths[2], vectors[5].tolist()) == (0, [-1, 0])
    assert np.isfinite(lengths).tolist() == [True, True, True, False, False, True]
