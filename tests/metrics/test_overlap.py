"""Mutual neighbours by hand and against a loop."""

import numpy as np
import pytest

from embedstore.errors import UsageError
from embedstore.metrics.overlap import mutual_overlap, others_only


def test_a_row_leaves_its_own_list():
    rows = np.array([[0, 2, 1], [2, 1, 0], [0, 1, 3], [3, 0, 1]])
    # Row 2 is not in its own list (three equal rows stood before it): the last one leaves.
    assert others_only(rows).tolist() == [[2, 1], [2, 0], [0, 1], [0, 1]]


def test_the_share_that_both_name():
    left = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]])
    right = np.array([[3, 2, 1], [1, 2, 3], [9, 0, 1], [4, 3, 2]])
    np.testing.assert_allclose(mutual_overlap(left, right), [1, 0, 1 / 3, 2 / 3])


def test_random_lists_equal_a_loop_over_sets():
    rng = np.random.default_rng(0)
    left, right = (np.stack([rng.permutation(30)[:7] for _ in range(200)]) for _ in range(2))
    want = [len(set(a) & set(b)) / 7 for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(mutual_overlap(left, right), want)


def test_lists_of_other_shapes_are_refused():
    with pytest.raises(UsageError, match="twice"):
        mutual_overlap(np.zeros((3, 2), np.int64), np.zeros((3, 1), np.int64))
