from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.index import exact
from embedstore.index.exact import pair_scores, ranks_both_ways, ranks_of_positives, top_k
from embedstore.metrics.recall import Positives, first_ranks


def unit(rng: np.random.Generator, n: int, e: int) -> np.ndarray:
    x = rng.normal(size=(n, e))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def all_scores(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Every pair alone, in float64."""
    wide = [[(q.astype(np.float64) * g.astype(np.float64)).sum() for g in gallery] for q in queries]
    return np.array(wide).reshape(len(queries), len(gallery))


def slow_top_k(scores: np.ndarray, k: int) -> np.ndarray:
    return np.array([sorted(range(len(s)), key=lambda j: (-s[j], j))[:k] for s in scores])


def crowded(seed: int, q: int, n: int, e: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a gallery full of exact copies and of rows one rounding step apart."""
    rng = np.random.default_rng(seed)
    gallery = unit(rng, max(1, n // 4), e)[rng.integers(0, max(1, n // 4), n)]
    nudged = rng.random(n) < 0.3
    gallery[nudged] = np.nextafter(gallery[nudged], np.float32(2))
    return unit(rng, q, e), gallery


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 40), st.integers(1, 33), st.data())
def test_ranks_and_neighbours_equal_the_slow_twin_for_every_block_size(seed, q, n, e, data) -> None:
    queries, gallery = crowded(seed, q, n, e)
    some = st.lists(st.integers(0, n - 1), min_size=1, max_size=4, unique=True)
    positives = Positives.of([data.draw(some) for _ in range(q)])
    block, k = data.draw(st.integers(1, 45)), data.draw(st.integers(1, n + 3))
    scores = all_scores(queries, gallery)
    ranks = ranks_of_positives(queries, gallery, positives, block=block)
    assert ranks.tolist() == first_ranks(scores, positives).tolist()
    found = top_k(queries, gallery, k, block=block)
    assert found.rows.tolist() == slow_top_k(scores, k).tolist()
    assert np.array_equal(found.scores, np.take_along_axis(scores, found.rows, axis=1))


def test_larger_crowded_galleries_do_not_depend_on_the_block() -> None:
    queries, gallery = crowded(7, 150, 900, 96)
    positives = Positives.single(np.random.default_rng(8).integers(0, 900, 150))
    expected = first_ranks(all_scores(queries, gallery), positives)
    for block in (64, 257, 1000):
        assert ranks_of_positives(queries, gallery, positives, block=block).tolist() == expected.tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(0, 30), st.integers(1, 17), st.integers(1, 40))
def test_one_product_gives_the_ranks_of_both_ways(seed, n, more, e, block) -> None:
    images, texts = crowded(seed, n, n + more, e)
    image_of = np.random.default_rng(seed).permutation(np.arange(n + more) % n)
    scores = all_scores(images, texts)
    to_image, to_text = ranks_both_ways(images, texts, image_of, block=block)
    assert to_image.tolist() == first_ranks(scores.T, Positives.single(image_of)).tolist()
    captions = Positives.of([np.flatnonzero(image_of == i) for i in range(n)])
    assert to_text.tolist() == first_ranks(scores, captions).tolist()


def test_both_ways_over_several_tiles_with_embeddings_that_are_all_alike() -> None:
    near, texts = np.ones((1100, 3), np.float32), np.ones((2300, 3), np.float32)
    image_of = np.sort(np.arange(2300) % 1100)
    to_image, to_text = ranks_both_ways(near, texts, image_of)
    assert np.array_equal(to_image, image_of + 1)
    assert np.array_equal(to_text, np.searchsorted(image_of, np.arange(1100)) + 1)


def test_threads_make_no_difference_and_are_put_back() -> None:
    images, texts = crowded(9, 700, 1500, 8)
    image_of = np.random.default_rng(9).permutation(np.arange(1500) % 700)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([ranks.tolist() for ranks in ranks_both_ways(images, texts, image_of)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_memory_that_must_not_be_written_to_is_read() -> None:
    images, texts = crowded(3, 4, 9, 5)
    expected = ranks_both_ways(images, texts, np.arange(9) % 4)
    for values in (images, texts):
        values.flags.writeable = False
    for found, own in zip(ranks_both_ways(images, texts, np.arange(9) % 4), expected, strict=True):
        assert found.tolist() == own.tolist()


def test_both_ways_need_an_image_a_text_and_a_text_an_image() -> None:
    a = np.eye(3, dtype=np.float32)
    with pytest.raises(UsageError, match=r"an image has no text[\s\S]*1 such images, the first is row 1"):
        ranks_both_ways(a, a, np.array([0, 2, 2]))
    with pytest.raises(UsageError, match="one image a text"):
        ranks_both_ways(a, a, np.arange(2))
    with pytest.raises(UsageError, match="outside the gallery"):
        ranks_both_ways(a, a, np.array([0, 1, 3]))


def test_a_collapsed_head_recalls_what_chance_recalls() -> None:
    same = np.ones((300, 16), dtype=np.float32) / 4
    ranks = ranks_of_positives(same, same, Positives.single(np.arange(300)), block=64)
    assert ranks.tolist() == list(range(1, 301))
    assert top_k(same[:2], same, 3, block=64).rows.tolist() == [[0, 1, 2]] * 2


def test_half_precision_inputs_count_as_float32() -> None:
    rng = np.random.default_rng(1)
    queries, gallery = unit(rng, 9, 24).astype(np.float16), unit(rng, 50, 24).astype(np.float16)
    found = top_k(queries, gallery, 5, block=7)
    assert found.rows.tolist() == slow_top_k(all_scores(queries, gallery), 5).tolist()


def test_a_lower_matmul_precision_set_by_the_user_changes_nothing_and_is_put_back() -> None:
    queries, gallery = crowded(2, 20, 200, 64)
    positives = Positives.single(np.arange(20))
    expected = ranks_of_positives(queries, gallery, positives)
    torch.set_float32_matmul_precision("medium")
    try:
        assert ranks_of_positives(queries, gallery, positives).tolist() == expected.tolist()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_scores_are_never_held_all_at_once(monkeypatch) -> None:
    rng, sizes, whole = np.random.default_rng(3), [], exact.score_tiles
    queries, gallery = unit(rng, 3000, 8), unit(rng, 3000, 8)

    def watched(*args):
        for tile in whole(*args):
            sizes.append(tile[1].numel())
            yield tile

    monkeypatch.setattr(exact, "score_tiles", watched)
    tracemalloc.start()
    ranks_of_positives(queries, gallery, Positives.single(np.arange(3000)), block=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (sum(sizes), max(sizes)) == (3000 * 3000, 128 * 128)
    assert peak < 3000 * 3000 * 4 / 6


def test_a_pair_has_one_score_wherever_it_stands() -> None:
    queries, gallery = crowded(4, 5, 30, 77)
    left, right = np.divmod(np.arange(150), 30)
    whole = pair_scores(queries, gallery, left, right)
    alone = [pair_scores(queries, gallery, left[i : i + 1], right[i : i + 1])[0] for i in range(150)]
    assert whole.tolist() == alone


def test_no_queries_give_no_rows() -> None:
    none, gallery = np.empty((0, 4), np.float32), np.ones((3, 4), np.float32)
    assert top_k(none, gallery, 2).rows.shape == (0, 2)
    assert ranks_of_positives(none, gallery, Positives.of([])).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    gallery = np.ones((5, 4), np.float32)
    gallery[3, 1] = bad
    with pytest.raises(UsageError, match=r"gallery: embeddings are not finite"):
        ranks_of_positives(np.ones((1, 4), np.float32), gallery, Positives.of([[0]]))


def test_shapes_and_sizes_that_do_not_meet_are_refused() -> None:
    a, b = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(UsageError, match=r"\(q, e\) and \(n, e\)"):
        top_k(a, b, 1)
    with pytest.raises(UsageError, match="at least one row"):
        top_k(a, a, 1, block=0)
    with pytest.raises(UsageError, match="k must be at least 1"):
        top_k(a, a, 0)
    with pytest.raises(UsageError, match="one list of positives"):
        ranks_of_positives(a, a, Positives.of([[0]]))
    with pytest.raises(UsageError, match="too long for float32"):
        top_k(a * 1e20, a * 1e20, 1)
