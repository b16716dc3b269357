"""How an epoch is cut into what is read at once, and that buffers are bounded and used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store import epoch_plan
from embedstore.stream.dataset import TokenStream
from embedstore.stream.groups import cut
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("stores") / "plain", images=50, captions=3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 400), batch=st.integers(1, 50), group=st.integers(1, 200), most=st.integers(1, 150)
)
def test_units_are_the_plan_in_order_and_within_the_bound(*, rows, batch, group, most):
    plan = epoch_plan(np.arange(rows), seed=0, epoch=0, batch=batch, block_rows=4, group_rows=group)
    units = cut(plan, most)
    together = np.concatenate([plan.rows[:0], *(u.rows for u in units)])
    assert together.tolist() == plan.rows.tolist()
    sizes = [high - low for u in units for low, high in u.batches]
    assert sizes == np.diff(plan.batches).tolist()
    assert all(len(u.rows) <= most or len(u.batches) == 1 for u in units)


def test_smaller_buffers_read_less_at_once_and_give_the_same(store):
    small = TokenStream(store["vision"], batch_size=4, buffer_mb=0.01)
    large = TokenStream(store["vision"], batch_size=4)
    assert len(cut(small.plan(0), small.unit_rows)) > len(cut(large.plan(0), large.unit_rows)) == 1
    assert [b.rows.tolist() for b in small] == [b.rows.tolist() for b in large]


def test_buffers_of_an_epoch_serve_the_next(store):
    stream = TokenStream(store["vision"], batch_size=25)
    places = [{b.tokens.data_ptr() for b in stream} for _ in range(3)]
    assert places[0] == places[1] == places[2]


def test_leaving_early_ends_the_reading(store):
    stream = TokenStream(store["vision"], batch_size=5, buffer_mb=0.01)
    with stream.epoch(0) as batches:
        assert len(next(batches).rows) == 5
    assert list(batches) == []
    assert not [t for t in threading.enumerate() if t.name == "embedstore-read-ahead"]


@pytest.mark.parametrize("shuffle", ["blocks", "full", "none"])
def test_ranks_share_an_epoch_in_every_order(store, shuffle):
    seen = []
    for rank in range(3):
        stream = PairStream(
            store,
            image="vision",
            text="words",
            rows=np.arange(50),
            batch_size=6,
            rank=rank,
            world=3,
            shuffle=shuffle,
        )
        with stream.epoch(1) as batches:
            found = [b.image.rows.copy() for b in batches]
        assert len(found) == stream.steps
        seen += found
    assert sorted(np.concatenate(seen)) == list(range(50))
    if shuffle == "none":
        assert np.concatenate(seen).tolist() == list(range(50))


def test_what_cannot_be_shared_is_refused(store):
    for options in ({"rank": 2, "world": 2}, {"batch_size": 0}):
        with pytest.raises(UsageError, match="bad batch size or rank"):
            TokenStream(store["vision"], **{"batch_size": 2, **options})
    with pytest.raises(UsageError, match="two or more on each rank"):
        PairStream(store, image="vision", text="words", rows=np.arange(5), batch_size=2, world=3)
