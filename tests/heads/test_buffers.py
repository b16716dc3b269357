"""Buffers are used again, never while somebody holds them, and never across inference mode."""

from __future__ import annotations

import torch

from embedstore.heads.buffers import KEPT_PER_SIZE, KEPT_SIZES, BufferPool, converted

LIKE = torch.zeros(1)


def test_a_buffer_given_back_is_the_next_of_its_size():
    pool = BufferPool()
    first, held = pool.take(2, 3, like=LIKE), pool.take(2, 3, like=LIKE)
    assert first.data_ptr() != held.data_ptr()
    pool.give(first)
    again = pool.take(6, like=LIKE)
    assert again.data_ptr() == first.data_ptr()
    assert again.shape == (6,)
    assert pool.take(6, like=LIKE).data_ptr() not in (first.data_ptr(), held.data_ptr())
    pool.give(again)
    assert pool.take(6, like=LIKE, dtype=torch.float64).dtype == torch.float64


def test_the_pool_keeps_a_few_of_the_latest_sizes():
    pool = BufferPool()
    taken = [pool.take(4, like=LIKE) for _ in range(KEPT_PER_SIZE + 3)]
    pool.give(*taken)
    for size in range(10, 10 + KEPT_SIZES - 1):
        pool.give(pool.take(size, like=LIKE))
    places = {t.data_ptr() for t in taken}
    assert pool.take(4, like=LIKE).data_ptr() in places
    pool.give(pool.take(99, like=LIKE))
    assert sum(len(free) for free in pool._free.values()) <= KEPT_SIZES * KEPT_PER_SIZE
    assert len(pool._free) == KEPT_SIZES
    pool.clear()
    assert not pool._free


def test_a_buffer_born_in_inference_mode_stays_there():
    pool = BufferPool()
    with torch.inference_mode():
        inside = pool.take(5, like=LIKE)
        pool.give(inside)
    outside = pool.take(5, like=LIKE)
    assert not outside.is_inference()
    with torch.inference_mode():
        assert pool.take(5, like=LIKE).data_ptr() == inside.data_ptr()


def test_conversion_copies_only_where_the_type_differs():
    narrow = torch.arange(4).half()
    with converted(narrow, torch.float32) as wide:
        assert wide.tolist() == [0, 1, 2, 3]
        assert wide.dtype == torch.float32
    with converted(narrow, torch.float16) as same:
        assert same is narrow
