"""The best of a long stream equals the whole score matrix, sorted; for any block, thread count and order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.curate.pool import unit_vectors
from embedstore.errors import UsageError
from embedstore.index import screen, tiles
from embedstore.index.heaps import Heaps
from embedstore.index.screen import GRID, best_of, merged


def reference(queries, pool, k):
    scores = (queries.astype(float)[:, None] * pool.astype(float)[None]).sum(-1)
    scores = np.round(scores / GRID) * GRID
    valid = ~np.isnan(pool[:, 0])
    scores[:, ~valid] = -np.inf
    order = np.array([np.lexsort((np.arange(len(pool)), -line)) for line in scores])[:, : min(k, valid.sum())]
    order.sort(axis=1)
    return order, np.take_along_axis(scores, order, axis=1)


def check(found, queries, pool, k):
    positions, scores = reference(queries, pool, k)
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_array_equal(found.scores, scores)
    assert found.valid == np.count_nonzero(~np.isnan(pool[:, 0]))


@pytest.fixture(params=["float32", "bfloat16", "float32, little room", "bfloat16, little room"])
def rooms(request, monkeypatch):
    """The sizes as they are, or so small that rooms overflow and bars are foretold for small pools."""
    monkeypatch.setattr(screen, "fast_bfloat16", lambda: "bfloat16" in request.param)
    if "little room" in request.param:
        monkeypatch.setattr(screen, "_LEAST_ROOM", 8)
        monkeypatch.setattr(screen, "TILE", 64)
        monkeypatch.setattr(screen, "_SAMPLE_SHARE", 4)
        monkeypatch.setattr(screen, "_SAMPLE_BLOCKS", 2)
        monkeypatch.setattr(tiles, "_RUN", 8)
        monkeypatch.setattr(screen, "_LEAST_QUERIES", 2)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 400),
    queries=st.integers(1, 9),
    width=st.integers(1, 5),
    k=st.integers(1, 60),
    block=st.sampled_from([1, 3, 64, 500, 4096]),
    threads=st.integers(1, 3),
)
@pytest.mark.usefixtures("rooms")
def test_equals_the_sorted_matrix(seed, count, queries, width, k, block, threads):
    random = np.random.default_rng(seed)
    # Few different vectors: most scores have equals, some rows have no direction.
    pool = unit_vectors(random.integers(-2, 3, size=(count, width)).astype(np.float32))
    asked = unit_vectors(random.normal(size=(queries, width)))
    found = best_of(asked, lambda at: pool[at], count, k, block=block, threads=threads)
    check(found, asked, pool, k)


@pytest.mark.usefixtures("rooms")
def test_a_pool_of_one_vector_gives_the_first_rows():
    pool = np.tile(unit_vectors(np.array([[0.3, 0.4, 0.5]])), (5000, 1))
    found = best_of(pool[:2], lambda at: pool[at], 5000, 20, block=128)
    assert found.positions.tolist() == [list(range(20))] * 2


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.usefixtures("rooms")
def test_a_sorted_pool_misleads_nobody(step):
    angles = np.linspace(0, 3, 6000)[::step]
    pool = unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    asked = unit_vectors(np.array([[1.0, 0.0], [0.2, 1.0], [-1.0, 0.1]]))
    check(best_of(asked, lambda at: pool[at], 6000, 50, block=100), asked, pool, 50)


@pytest.mark.usefixtures("rooms")
def test_vectors_that_a_product_does_not_tell_apart():
    random = np.random.default_rng(2)
    pool = unit_vectors(random.normal(size=48) + 1e-4 * random.normal(size=(3000, 48)))
    asked = unit_vectors(pool[:5] + 0.3 * random.normal(size=(5, 48)))
    check(best_of(asked, lambda at: pool[at], 3000, 60, block=700), asked, pool, 60)


@pytest.mark.usefixtures("rooms")
def test_the_bound_holds_where_rounding_to_bfloat16_is_worst():
    random = np.random.default_rng(3)
    # Odd numbers of nine bits lie half-way between two bfloat16 numbers.
    size = 2 * random.integers(128, 256, (2000, 64)) + 1
    pool = (random.choice([-1, 1], size=(2000, 64)) * size / 2**12).astype(np.float32)
    check(best_of(pool[:6], lambda at: pool[at], 2000, 40, block=300), pool[:6], pool, 40)


def test_bars_that_the_stream_foretells_too_high_are_found_out(monkeypatch):
    """All good rows lie where the first reading looks, so that it foretells twice as many as there are."""
    monkeypatch.setattr(tiles, "_RUN", 8)
    random = np.random.default_rng(4)
    pool = unit_vectors(random.normal(size=(6400, 8)))
    asked = unit_vectors(random.normal(size=(3, 8)))
    pool[np.arange(6400) % 128 < 8] += 3 * asked[0]
    pool = unit_vectors(pool)
    foretold = []
    misled = Heaps.misled
    monkeypatch.setattr(Heaps, "misled", lambda heaps: foretold.append(misled(heaps)) or foretold[-1])
    check(best_of(asked, lambda at: pool[at], 6400, 900, block=8), asked, pool, 900)
    assert foretold[0].any()


def test_a_bar_that_was_foretold_too_high_is_found_out(monkeypatch):
    random = np.random.default_rng(0)
    pool, asked = (unit_vectors(random.normal(size=(n, 4))) for n in (3000, 6))
    monkeypatch.setattr(
        screen._Search, "foretold", lambda self: np.array([-np.inf, 0.5, 0.9, 0.9999, 2.0, -0.5])
    )
    check(best_of(asked, lambda at: pool[at], 3000, 100, block=256), asked, pool, 100)


def test_shards_are_merged_to_what_the_whole_gives():
    random = np.random.default_rng(1)
    pool, asked = (unit_vectors(random.integers(-2, 3, size=(n, 3)) * 1.0) for n in (900, 5))
    asked = asked[~np.isnan(asked[:, 0])]
    shards = []
    for start in range(0, 900, 250):
        part = pool[start : start + 250]
        best = best_of(asked, lambda at, own=part: own[at], len(part), 40)
        shards.append(replace(best, positions=best.positions.astype(np.int64) + start))
    check(merged(shards, 40), asked, pool, 40)


def test_a_device_without_float64_leaves_it_to_the_processor():
    pool = unit_vectors(np.random.default_rng(6).normal(size=(50, 5)))
    check(best_of(pool[:3], lambda at: pool[at], 50, 4, device="mps"), pool[:3], pool, 4)


def test_what_cannot_be_asked():
    pool = unit_vectors(np.eye(3))
    with pytest.raises(UsageError, match="k must be at least 1"):
        best_of(pool, lambda at: pool[at], 3, 0)
    with pytest.raises(UsageError, match="at least one row"):
        best_of(pool, lambda at: pool[at], 3, 1, block=0)
    with pytest.raises(UsageError, match="at least one thread"):
        best_of(pool, lambda at: pool[at], 3, 1, threads=-1)
    for odd in (1, np.nan, np.inf):
        with pytest.raises(UsageError, match="no unit vector"):
            best_of(np.full((1, 3), odd, np.float32), lambda at: pool[at], 3, 1)


@pytest.mark.parametrize("width", [3, 37, 384, 768])
def test_a_direction_depends_on_its_row_alone(width):
    values = np.random.default_rng(5).normal(size=(70, width)).astype(np.float16)
    together = unit_vectors(values)
    for first in (0, 1, 5):
        np.testing.assert_array_equal(unit_vectors(values[first : first + 9]), together[first : first + 9])


def test_directions_of_odd_vectors():
    given = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-30, 0], [1e30, 1e30]])
    found = unit_vectors(given.astype(np.float32))
    np.testing.assert_allclose(found[[0, 4, 5]], [[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert np.isnan(found[[1, 2, 3]]).all()
    np.testing.assert_array_equal(unit_vectors(np.eye(2, dtype=np.float16)), np.eye(2))
