"""The queue of units: every unit is stored, whatever the workers do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.encode.engines.messages import Lease
from embedstore.encode.engines.queue import MOST_DEATHS, UnitOf, UnitQueue


def queue(*counts, workers=2):
    made = UnitQueue(UnitOf(job, unit) for job, count in enumerate(counts) for unit in range(count))
    for worker in range(workers):
        made.join(worker)
    return made


def test_units_are_given_in_order_and_ahead_only_within_a_pass():
    q = queue(3, 4, workers=1)
    assert q.take(0) == Lease(of_pass=0, unit=0)
    assert q.more(0, 0) == Lease(of_pass=0, unit=1)
    assert q.more(0, 0) == Lease(of_pass=0, unit=2)
    assert q.more(0, 0) is None  # the next one is of another pass
    assert q.take(0) == Lease(of_pass=1, unit=0)


def test_the_last_units_are_kept_for_those_who_have_none():
    q = queue(3)
    assert q.take(0) == Lease(of_pass=0, unit=0)
    assert q.more(0, 0) == Lease(of_pass=0, unit=1)
    assert q.more(0, 0) is None
    assert q.take(1) == Lease(of_pass=0, unit=2)
    assert q.take(1) is None
    assert not q.finished


def test_units_of_a_dead_worker_are_given_out_last_and_alone():
    q = queue(4)
    assert (q.take(0).unit, q.more(0, 0).unit, q.take(1).unit) == (0, 1, 2)
    assert q.died(0) == [(0, 0), (0, 1)]
    q.join(0)
    assert q.take(0) == Lease(of_pass=0, unit=3)
    # Suspects are not begun beside something else.
    assert q.more(0, 0) is None
    assert q.stored(0, UnitOf(0, 3))
    assert not q.stored(0, UnitOf(0, 1))
    assert q.take(0) == Lease(of_pass=0, unit=0, alone=True)
    assert q.more(1, 0) is None
    assert q.stored(1, UnitOf(0, 2))
    assert q.take(1) == Lease(of_pass=0, unit=1, alone=True)
    assert q.deadly is None


def test_a_unit_that_ends_three_workers_is_named():
    q = queue(1, workers=1)
    for _ in range(MOST_DEATHS):
        assert q.deadly is None
        assert q.take(0).unit == 0
        q.died(0)
        q.join(0)
    assert q.deadly == (0, 0)


def test_a_worker_that_nobody_knows_has_nothing():
    assert queue(1).died(7) == []
    assert not queue(1).stored(7, UnitOf(0, 0))
    assert queue().finished


@given(st.data())
def test_every_unit_is_stored_once_whatever_happens(data):
    counts = data.draw(st.lists(st.integers(0, 6), max_size=3))
    workers = data.draw(st.integers(1, 4))
    q = queue(*counts, workers=workers)
    hands = {worker: [] for worker in range(workers)}
    stored = []
    for _ in range(400):
        if q.finished:
            break
        worker = data.draw(st.integers(0, workers - 1))
        hand = hands[worker]
        step = data.draw(st.sampled_from(["go", "go", "go", "die"]))
        if step == "die" and len(stored) % 2:
            assert q.died(worker) == hand
            hand.clear()
            q.join(worker)
        elif hand and data.draw(st.booleans()):
            unit = hand.pop(0)
            assert q.stored(worker, unit)
            stored.append(unit)
        else:
            lease = q.more(worker, hand[0].of_pass) if hand else q.take(worker)
            if lease is not None:
                assert not (lease.alone and hand)
                hand.append(UnitOf(lease.of_pass, lease.unit))
                assert len({u.of_pass for u in hand}) == 1
    assert len(stored) == len(set(stored))
    if q.finished:
        assert set(stored) == {UnitOf(j, u) for j, count in enumerate(counts) for u in range(count)}


@pytest.mark.parametrize("workers", [1, 3])
def test_idle_workers_get_everything_in_the_end(workers):
    q = queue(5, 0, 2, workers=workers)
    turns = 0
    while not q.finished:
        for worker in range(workers):
            lease = q.take(worker)
            if lease:
                q.stored(worker, UnitOf(lease.of_pass, lease.unit))
        turns += 1
    assert turns <= 7
