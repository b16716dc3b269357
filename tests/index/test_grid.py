"""Scores on the grid: the exact product, rounded once, whichever way it is computed."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from embedstore.index import grid
from embedstore.index.grid import GRID, grid_scores


def exact(query, vector):
    """In whole fractions; Python rounds them half to even."""
    total = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, vector, strict=True))
    return float(round(total / Fraction(GRID)) * Fraction(GRID))


def every_pair(queries, vectors):
    q, v = (torch.from_numpy(x.astype(np.float32)).double() for x in (queries, vectors))
    columns = np.tile(np.arange(len(v)), len(q))
    return grid_scores(q, v, np.arange(len(q) + 1) * len(v), columns).reshape(len(q), len(v))


@pytest.mark.parametrize("dense", [-1.0, 2.0])
def test_products_on_the_edge_between_two_multiples_are_summed_without_error(dense, monkeypatch):
    monkeypatch.setattr(grid, "_DENSE", dense)
    random = np.random.default_rng(0)
    # Half of all products of these lie exactly between two multiples.
    queries = random.integers(-900, 900, size=(8, 48)) * 2.0**-14
    vectors = random.integers(-900, 900, size=(40, 48)) * 2.0**-15
    wanted = [[exact(q, v) for v in vectors] for q in queries]
    found = every_pair(queries, vectors)
    np.testing.assert_array_equal(found, wanted)
    order = random.permutation(48)
    np.testing.assert_array_equal(every_pair(queries[:, order], vectors[:, order]), found)


def test_any_pairs_are_scored_as_all_are():
    random = np.random.default_rng(1)
    queries, vectors = (torch.from_numpy(random.normal(size=(n, 96)) / 10) for n in (30, 200))
    chosen = random.random((30, 200)) < 0.05
    edges = np.append(0, np.cumsum(chosen.sum(axis=1)))
    found = grid_scores(queries, vectors, edges, np.nonzero(chosen)[1])
    every = grid_scores(queries, vectors, np.arange(31) * 200, np.tile(np.arange(200), 30)).reshape(30, 200)
    np.testing.assert_array_equal(found, every[chosen])
    np.testing.assert_array_equal(found, np.round((queries @ vectors.T).numpy()[chosen] / GRID) * GRID)


def test_a_vector_without_a_direction_has_no_score():
    vectors = np.array([[1.0, 0.0], [np.nan, np.nan]])
    assert np.isnan(every_pair(np.eye(2), vectors)).tolist() == [[False, True], [False, True]]
