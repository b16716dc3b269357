from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from embedstore.errors import UsageError
from embedstore.metrics import vote
from embedstore.metrics.vote import weighted_vote


def test_truth_table_of_votes() -> None:
    cosines = np.array([[0.9, 0.8, 0.79], [0.9, 0.2, 0.2], [0.5, 0.5, 0.5], [0.7, 0.7, 0.7]])
    labels = np.array([[1, 0, 0], [1, 0, 0], [2, 1, 0], [2, 2, 0]])
    # Two votes of exp(-1.43) and exp(-1.57) are less than one of 1; of equal sums the lower class wins.
    assert weighted_vote(cosines, labels, 3).tolist() == [1, 1, 0, 2]
    # At a high temperature all votes are alike.
    assert weighted_vote(cosines, labels, 3, temperature=100.0).tolist() == [0, 0, 0, 2]


def test_many_queries_are_counted_in_parts(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    cosines, labels = rng.random((50, 4)), rng.integers(0, 3, (50, 4))
    whole = weighted_vote(cosines, labels, 3)
    monkeypatch.setattr(vote, "_VOTES_AT_ONCE", 20)
    assert weighted_vote(cosines, labels, 3).tolist() == whole.tolist()


@settings(max_examples=20)
@given(st.integers(2, 5), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_equal_to_scikit_learn(classes: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gallery, queries = rng.normal(size=(30, 6)), rng.normal(size=(12, 6))
    labels = rng.integers(0, classes, 30)
    gallery, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery, queries))
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    cosines = queries @ gallery.T
    near = np.argsort(-cosines, axis=1)[:, :k]
    found = weighted_vote(np.take_along_axis(cosines, near, axis=1), labels[near], classes)
    assert found.tolist() == model.fit(gallery, labels).predict(queries).tolist()


def test_nobody_who_votes_is_refused() -> None:
    with pytest.raises(UsageError, match="every neighbour"):
        weighted_vote(np.zeros((2, 0)), np.zeros((2, 0), int), 2)
    with pytest.raises(UsageError, match="every neighbour"):
        weighted_vote(np.zeros((2, 3)), np.zeros((2, 2), int), 2)
