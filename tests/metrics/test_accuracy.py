from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.metrics.accuracy import (
    ConfusedPair,
    chance_top_k,
    class_recall,
    confused_pairs,
    confusion,
)
from embedstore.metrics.recall import Positives, first_ranks, hits

SCORES = np.array(
    [
        [0.9, 0.5, 0.1],  # class 0, right
        [0.2, 0.5, 0.9],  # class 0, third
        [0.4, 0.4, 0.1],  # class 1, tied with the lower class 0: second
        [0.1, 0.6, 0.1],  # class 1, right
    ]
)
LABELS = np.array([0, 0, 1, 1])


def test_truth_table_with_a_tie_and_a_class_that_is_absent() -> None:
    ranks = first_ranks(SCORES, Positives.single(LABELS))
    assert ranks.tolist() == [1, 3, 2, 1]
    assert hits(ranks, 1).mean() == 0.5
    found = class_recall(hits(ranks, 1), LABELS, 3)
    assert found.rows.tolist() == [2, 2, 0]
    assert found.recall[:2].tolist() == [0.5, 0.5]
    assert np.isnan(found.recall[2])
    assert found.mean == 0.5


def test_mean_per_class_weighs_rare_classes_as_much_as_common_ones() -> None:
    right, labels = np.array([1.0] * 9 + [0.0]), np.array([0] * 9 + [1])
    assert right.mean() == 0.9
    assert class_recall(right, labels, 2).mean == 0.5


def test_one_class_is_always_right() -> None:
    ranks = first_ranks(np.zeros((3, 1)), Positives.single(np.zeros(3, dtype=np.int64)))
    assert ranks.tolist() == [1, 1, 1]
    assert class_recall(hits(ranks, 1), np.zeros(3, dtype=np.int64), 1).mean == 1.0


def test_equal_scores_call_everything_the_first_class() -> None:
    labels = np.array([0, 1, 2, 3] * 3)
    right = hits(first_ranks(np.ones((12, 4)), Positives.single(labels)), 1)
    assert right.mean() == chance_top_k(4, 1) == class_recall(right, labels, 4).mean


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_top_1_and_recall_equal_the_slow_twin(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (n, classes)) / 4, rng.integers(0, classes, n)
    right = hits(first_ranks(scores, Positives.single(labels)), 1)
    assert right.tolist() == (scores.argmax(axis=1) == labels).astype(float).tolist()
    found = class_recall(right, labels, classes)
    means = [right[labels == c].mean() for c in range(classes) if (labels == c).any()]
    assert found.mean == pytest.approx(np.mean(means))
    table = confusion(scores.argmax(axis=1), labels, classes)
    assert table.sum(axis=1).tolist() == found.rows.tolist()
    assert np.trace(table) == right.sum()
    assert all(
        table[i, j] == ((labels == i) & (scores.argmax(axis=1) == j)).sum()
        for i, j in np.ndindex(table.shape)
    )


def test_labels_outside_the_class_list_are_refused() -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        class_recall(np.ones(1), np.array([2]), 2)
    with pytest.raises(UsageError, match="at least one"):
        class_recall(np.ones(0), np.empty(0, dtype=np.int64), 2)


def test_chance_never_exceeds_one() -> None:
    assert [chance_top_k(c, 5) for c in (1, 5, 10)] == [1.0, 1.0, 0.5]


def test_confused_pairs_by_hand_the_most_frequent_first_then_by_class() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    called = np.array([0, 2, 1, 2, 2, 1, 0, 0])
    assert confused_pairs(called, labels, 3) == (
        ConfusedPair(label=1, predicted=2, count=2),
        ConfusedPair(label=2, predicted=0, count=2),
        ConfusedPair(label=0, predicted=1, count=1),
    )
    assert confused_pairs(labels, labels, 3) == ()


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_confused_pairs_are_the_largest_off_the_diagonal(classes: int, n: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, called = rng.integers(0, classes, (2, n))
    table = confusion(called, labels, classes)
    np.fill_diagonal(table, 0)
    found = confused_pairs(called, labels, most)
    assert all(table[p.label, p.predicted] == p.count for p in found)
    assert [p.count for p in found] == sorted(table[table > 0].tolist(), reverse=True)[:most]


@given(st.integers(2, 8), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_figures_equal_those_of_scikit_learn(classes: int, n: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(seed)
    # Distinct scores: among equal ones scikit-learn takes the last class, we the first.
    scores = rng.permutation(n * classes).reshape(n, classes).astype(np.float64)
    labels, every = rng.integers(0, classes, n), np.arange(classes)
    ranks, called = first_ranks(scores, Positives.single(labels)), scores.argmax(axis=1)
    found = class_recall(hits(ranks, 1), labels, classes)
    with warnings.catch_warnings():
        # It warns of classes that are predicted but absent, and leaves them out as we do.
        warnings.simplefilter("ignore", UserWarning)
        assert found.mean == pytest.approx(metrics.balanced_accuracy_score(labels, called), abs=1e-12)
    assert hits(ranks, 1).mean() == pytest.approx(metrics.accuracy_score(labels, called), abs=1e-12)
    for k in range(1, classes):
        truth = (labels, scores[:, 1] - scores[:, 0]) if classes == 2 else (labels, scores)
        wanted = metrics.top_k_accuracy_score(*truth, k=k, labels=every)
        assert hits(ranks, k).mean() == pytest.approx(wanted, abs=1e-12)
    wanted = metrics.confusion_matrix(labels, called, labels=every)
    assert confusion(called, labels, classes).tolist() == wanted.tolist()
    recall = metrics.recall_score(labels, called, labels=every, average=None, zero_division=np.nan)
    np.testing.assert_allclose(found.recall, recall, atol=1e-12)
