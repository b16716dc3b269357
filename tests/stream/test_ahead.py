"""Reading ahead: order, bounds, errors, and leaving early."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from embedstore.stream.ahead import ReadAhead, buffer_sets


def threads():
    return [t for t in threading.enumerate() if t.name == "embedstore-read-ahead" and t.is_alive()]


def test_batches_come_in_order_and_buffers_are_used_again():
    def read(job, buffer):
        buffer[0] = job
        return buffer

    with ReadAhead(range(10), read, [[None], [None]]) as stream:
        seen = [(batch[0], id(batch)) for batch in stream]
    assert [job for job, _ in seen] == list(range(10))
    assert len({place for _, place in seen}) == 2


def test_no_more_batches_exist_than_buffers():
    started = []
    stream = ReadAhead(range(10), lambda job, _: started.append(job), ["a", "b", "c"])
    next(stream)
    next(stream)
    # One batch is held by the caller and two more buffers are there: at most jobs 0 to 3 have begun.
    assert max(started) <= 3
    stream.close()


def test_an_error_while_reading_is_raised_where_the_batch_is_asked_for():
    def read(job, _):
        if job == 2:
            raise ValueError("row 2 is broken")
        return job

    stream = ReadAhead(range(5), read, ["a", "b"])
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="row 2 is broken"):
        next(stream)
    assert list(stream) == []
    assert threads() == []


def test_leaving_early_ends_the_thread():
    with ReadAhead(range(1000), lambda job, _: job, ["a", "b"]) as stream:
        assert next(stream) == 0
    assert list(stream) == []
    assert threads() == []


class Room:
    """Buffers that can be watched."""


def test_one_that_is_dropped_half_read_leaves_no_thread_and_no_buffer():
    rooms = [Room(), Room(), Room()]
    watched = [weakref.ref(room) for room in rooms]
    begun = []

    def read(job, room):
        begun.append(job)
        return job

    stream = ReadAhead(range(1000), read, rooms)
    rooms.clear()
    assert [next(stream), next(stream)] == [0, 1]
    (thread,) = threads()
    del stream
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert max(begun) <= 4
    assert [ref() for ref in watched] == [None, None, None]


def test_one_that_is_dropped_unread_or_after_an_error_leaves_no_thread():
    def broken(job, _):
        raise ValueError(job)

    for read in (lambda job, _: job, broken):
        stream = ReadAhead(range(5), read, ["a", "b"])
        thread = stream._thread
        del stream
        gc.collect()
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_the_number_of_buffers_follows_the_budget():
    assert buffer_sets(100, budget=350) == 3
    assert buffer_sets(10**12, budget=1) == 2
    assert buffer_sets(1, budget=10**9) == 4
