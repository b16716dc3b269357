"""The best k of a stream: the same for every cut and order of it, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.index.topk import TopK


def crowded(seed: int, q: int, n: int, e: int) -> tuple[np.ndarray, np.ndarray]:
    """Many equal scores, copies, and rows one rounding step apart."""
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(max(1, n // 4), e)).astype(np.float32)[rng.integers(0, max(1, n // 4), n)]
    nudged = rng.random(n) < 0.3
    gallery[nudged] = np.nextafter(gallery[nudged], np.float32(9))
    return rng.normal(size=(q, e)).astype(np.float32), gallery


def slow(queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, k: int) -> tuple[list, list]:
    scores = [[(q.astype(np.float64) * g.astype(np.float64)).sum() for g in gallery] for q in queries]
    order = [sorted(range(len(gallery)), key=lambda j: (-s[j], rows[j]))[:k] for s in scores]
    return (
        [[int(rows[j]) for j in line] for line in order],
        [[s[j] for j in line] for s, line in zip(scores, order, strict=True)],
    )


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 300), st.integers(1, 20), st.data())
def test_any_cut_and_any_order_give_the_slow_twin(seed, q, n, e, data) -> None:
    queries, gallery = crowded(seed, q, n, e)
    rows = np.random.default_rng(seed).permutation(10 * n)[:n]
    k, block = data.draw(st.integers(1, n + 3)), data.draw(st.integers(1, 70))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    best = TopK(queries, k, block=block)
    for first, last in zip([0, *cuts], [*cuts, n], strict=True):
        best.add(gallery[first:last], rows[first:last])
        if data.draw(st.booleans()):
            best.result()
    found = best.result()
    wanted_rows, wanted_scores = slow(queries, gallery, rows, k)
    assert found.rows.tolist() == wanted_rows
    assert found.scores.tolist() == wanted_scores
    assert best.seen == n


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_the_worst_orders_stay_within_the_room_and_are_exact(order) -> None:
    n, k = 4000, 150
    score = {"rising": np.arange(n), "falling": -np.arange(n), "equal": np.ones(n)}[order]
    gallery = np.stack([score, np.zeros(n)], axis=1).astype(np.float32)
    queries = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    best = TopK(queries, k, block=700)
    for at in range(0, n, 333):
        best.add(gallery[at : at + 333])
        assert best._rows.shape[1] <= 2 * k
    wanted_rows, _ = slow(queries, gallery, np.arange(n), k)
    assert best.result().rows.tolist() == wanted_rows


def test_memory_does_not_grow_with_the_stream() -> None:
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    best = TopK(queries, 1000)

    def peak(blocks: int) -> int:
        tracemalloc.start()
        for _ in range(blocks):
            best.add(rng.normal(size=(2000, 8)).astype(np.float32))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    first = peak(4)
    assert peak(30) < 1.5 * first
    assert best.result().rows.shape == (20, 1000)
    assert best.seen == 68_000


def test_rows_are_numbered_on_and_more_may_follow_a_result() -> None:
    best = TopK(np.array([[1.0]], np.float32), 2)
    best.add(np.array([[1.0], [3.0]], np.float32))
    first = best.result()
    best.add(np.array([[2.0], [3.0]], np.float32))
    assert first.rows.tolist() == [[1, 0]]
    assert best.result().rows.tolist() == [[1, 3]]


def test_nothing_added_and_no_queries() -> None:
    assert TopK(np.ones((2, 3), np.float32), 5).result().rows.shape == (2, 0)
    best = TopK(np.empty((0, 3), np.float32), 5)
    best.add(np.ones((7, 3), np.float32))
    assert best.result().rows.shape == (0, 5)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(UsageError, match="k must be at least 1"):
        TopK(np.ones((1, 2), np.float32), 0)
    best = TopK(np.ones((1, 2), np.float32), 1)
    with pytest.raises(UsageError, match="not finite"):
        best.add(np.array([[1, np.nan]], np.float32))
    with pytest.raises(UsageError, match=r"\(q, e\) and \(n, e\)"):
        best.add(np.ones((3, 4), np.float32))
    with pytest.raises(UsageError, match="one row number a vector"):
        best.add(np.ones((3, 2), np.float32), np.arange(2))
    with pytest.raises(UsageError, match="not finite"):
        TopK(np.array([[np.inf]], np.float32), 1)
