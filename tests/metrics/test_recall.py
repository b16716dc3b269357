from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.metrics.recall import (
    Positives,
    chance_mean_rank,
    chance_median_rank,
    chance_recall,
    first_ranks,
    hits,
    recall_at_k,
)


def slow_rank(line: list[float], right: list[int]) -> int:
    """Sort the whole gallery and look for the first right row."""
    order = sorted(range(len(line)), key=lambda j: (-line[j], j))
    return 1 + next(place for place, row in enumerate(order) if row in right)


TRUTH = [
    ("the right row wins", [0.9, 0.1, 0.5], [0], 1),
    ("one row is better", [0.9, 0.1, 0.95], [0], 2),
    ("last of three", [0.1, 0.2, 0.3], [0], 3),
    ("a tie goes to the lower row, which is right", [0.5, 0.5, 0.1], [0], 1),
    ("a tie goes to the lower row, which is wrong", [0.5, 0.5, 0.1], [1], 2),
    ("all scores equal: the rank is the row's place", [0.5, 0.5, 0.5, 0.5], [2], 3),
    ("several captions: the best one counts", [0.1, 0.9, 0.5, 0.2], [0, 2], 2),
    ("several captions that all stand before the wrong ones", [0.9, 0.8, 0.1], [0, 1], 1),
    ("equal captions of one image do not push each other back", [0.3, 0.7, 0.7, 0.7], [1, 2, 3], 1),
    ("positives in falling row order", [0.3, 0.7, 0.7], [2, 1], 1),
    ("one image", [0.2], [0], 1),
]


@pytest.mark.parametrize(("scores", "right", "rank"), [t[1:] for t in TRUTH], ids=[t[0] for t in TRUTH])
def test_truth_table_of_ranks(scores: list[float], right: list[int], rank: int) -> None:
    assert first_ranks(np.array([scores]), Positives.of([right])).tolist() == [rank]


def test_recall_counts_a_query_once_however_many_positives_it_has() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.1, 0.0]])
    ranks = first_ranks(scores, Positives.of([[0, 1], [3]]))
    assert ranks.tolist() == [1, 4]
    assert [recall_at_k(ranks, k) for k in (1, 3, 4)] == [0.5, 0.5, 1.0]
    assert hits(ranks, 1).tolist() == [1.0, 0.0]


def test_equal_scores_for_everything_recall_what_a_blind_guess_recalls() -> None:
    ranks = first_ranks(np.full((20, 20), 0.25), Positives.single(np.arange(20)))
    for k in (1, 5, 10):
        assert recall_at_k(ranks, k) == k / 20 == pytest.approx(chance_recall(np.ones(20), 20, k))


@given(st.data())
def test_ranks_equal_the_slow_twin(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    line = st.lists(st.sampled_from([0.0, 0.25, 0.5, -1.0]), min_size=n, max_size=n)
    scores = data.draw(st.lists(line, min_size=1, max_size=5))
    rights = [data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)) for _ in scores]
    expected = [slow_rank(s, r) for s, r in zip(scores, rights, strict=True)]
    assert first_ranks(np.array(scores), Positives.of(rights)).tolist() == expected


@given(st.integers(1, 7), st.data())
def test_chance_is_the_share_of_all_orders_that_hit(n: int, data: st.DataObject) -> None:
    m, k = data.draw(st.integers(1, n)), data.draw(st.integers(1, n + 2))
    tops = list(combinations(range(n), min(k, n)))
    share = sum(any(row < m for row in top) for top in tops) / len(tops)
    assert chance_recall(np.array([m]), n, k) == pytest.approx(share, abs=1e-12)


def test_chance_of_mixed_queries_is_their_mean() -> None:
    one, two = chance_recall([1], 10, 3), chance_recall([2], 10, 3)
    assert (one, two) == (pytest.approx(0.3), pytest.approx(1 - (7 * 6) / (10 * 9)))
    assert chance_recall([1, 2, 2, 1], 10, 3) == pytest.approx((one + two) / 2)


@pytest.mark.parametrize(("counts", "n", "median"), [([1], 10, 5), ([1], 11, 6), ([1], 1, 1), ([5], 100, 13)])
def test_chance_median_rank(counts: list[int], n: int, median: int) -> None:
    assert chance_median_rank(counts, n) == median
    assert chance_recall(counts, n, median) >= 0.5
    assert median == 1 or chance_recall(counts, n, median - 1) < 0.5


def test_a_query_without_an_answer_is_refused_by_its_number() -> None:
    with pytest.raises(UsageError, match=r"query 1[\s\S]*leave them out and count"):
        Positives.of([[0], [], [1]])


def test_rows_outside_the_gallery_and_bad_scores_are_refused() -> None:
    with pytest.raises(UsageError, match=r"outside the gallery[\s\S]*0 to 1"):
        first_ranks(np.zeros((1, 2)), Positives.of([[2]]))
    with pytest.raises(UsageError, match="not finite"):
        first_ranks(np.array([[np.nan, 0.0]]), Positives.of([[0]]))
    with pytest.raises(UsageError, match="one list of positives a query"):
        first_ranks(np.zeros((2, 2)), Positives.of([[0]]))


def test_offsets_that_do_not_describe_the_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="begin with 0"):
        Positives(rows=np.array([0]), offsets=np.array([1, 1]))
    with pytest.raises(UsageError, match="do not end"):
        Positives(rows=np.array([0, 1]), offsets=np.array([0, 1]))


@pytest.mark.parametrize(
    ("counts", "n", "mean"), [([1], 1, 1), ([1], 9, 5), ([2], 3, 4 / 3), ([1, 3], 3, 1.5)]
)
def test_chance_mean_rank(counts: list[int], n: int, mean: float) -> None:
    # Two of three rows: the first of them is row 1 in two of the three choices, else row 2.
    assert chance_mean_rank(counts, n) == pytest.approx(mean)
