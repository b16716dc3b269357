from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store import Done, block_rows, epoch_order, epoch_plan, epoch_steps, group_rows

SHUFFLES = ["blocks", "full", "none"]


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 500),
    seed=st.integers(-(2**40), 2**63),
    epoch=st.integers(0, 1000),
    world=st.integers(1, 9),
    block=st.integers(1, 70),
    group=st.integers(1, 300),
    shuffle=st.sampled_from(SHUFFLES),
)
def test_every_row_once_over_all_ranks_and_counts_differ_by_one_at_most(
    *, rows, seed, epoch, world, block, group, shuffle
):
    parts = [
        epoch_order(
            rows,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world=world,
            block_rows=block,
            group_rows=group,
            shuffle=shuffle,
        )
        for rank in range(world)
    ]
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    counts = [len(p) for p in parts]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("shuffle", ["blocks", "full"])
def test_the_order_depends_on_seed_and_epoch_only(shuffle):
    def order(seed, epoch):
        return epoch_order(300, seed=seed, epoch=epoch, block_rows=8, group_rows=64, shuffle=shuffle).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9


def test_ranks_are_mixed_differently():
    orders = [
        epoch_order(200, seed=0, epoch=0, rank=r, world=2, block_rows=1, group_rows=200).tolist()
        for r in (0, 1)
    ]
    ranks = [np.argsort(np.argsort(o)).tolist() for o in orders]
    assert ranks[0] != ranks[1]


def test_chosen_rows_are_read_instead_of_all():
    rows = np.array([3, 5, 8, 13, 21, 34])
    for shuffle in SHUFFLES:
        found = epoch_order(rows, seed=0, epoch=1, block_rows=2, group_rows=4, shuffle=shuffle)
        assert sorted(found.tolist()) == rows.tolist()
    assert epoch_order(rows, seed=0, epoch=1, shuffle="none").tolist() == rows.tolist()


def test_a_group_reads_few_blocks_and_a_batch_draws_from_many():
    rows, block, group = 100_000, 8, 1024
    order = epoch_order(rows, seed=5, epoch=0, block_rows=block, group_rows=group)
    groups = round(rows / group)
    for number in range(0, groups, 10):
        batch = order[rows * number // groups : rows * (number + 1) // groups]
        blocks = np.count_nonzero(np.diff(np.sort(batch)) > 1) + 1
        assert 100 <= blocks <= group // block + 2


def test_neighbours_of_a_sorted_set_do_not_stay_together():
    order = epoch_order(4096, seed=0, epoch=0, block_rows=16, group_rows=1024)
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.03
    assert abs(np.corrcoef(order, np.arange(4096))[0, 1]) < 0.1


def test_blocks_begin_elsewhere_in_every_epoch():
    firsts = set()
    for epoch in range(12):
        order = epoch_order(64, seed=0, epoch=epoch, block_rows=8, group_rows=1)
        firsts.add(
            tuple(sorted(int(a) % 8 for a, b in zip(order[1:], order[:-1], strict=True) if a != b + 1))
        )
    assert len(firsts) > 3


def test_sizes_of_blocks_and_groups_follow_the_row():
    assert block_rows(64 * 384 * 2) == 32
    assert group_rows(64 * 384 * 2) == 4096
    assert block_rows(10**9) == group_rows(10**9) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2, "world": 2}, "bad rank"),
        ({"rank": -1}, "bad rank"),
        ({"block_rows": 0}, "at least one row"),
        ({"shuffle": "some"}, r"(?s)unknown order.*blocks, full, none"),
    ],
)
def test_what_no_epoch_could_be(options, words):
    with pytest.raises(UsageError, match=words):
        epoch_order(10, seed=0, epoch=0, **options)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 300),
    batch=st.integers(1, 40),
    least=st.integers(1, 3),
    worlds=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(0, 5)), max_size=3),
    world=st.integers(1, 6),
    align=st.sampled_from([1, 4]),
    shuffle=st.sampled_from(SHUFFLES),
)
def test_every_row_comes_once_over_all_ranks_and_worlds(*, rows, batch, least, worlds, world, align, shuffle):
    """What `done` says was read on other worlds, and what is left, are together every row once."""

    def plans(world, batch, done):
        return [
            epoch_plan(
                np.arange(rows) * 3,
                seed=7,
                epoch=2,
                batch=batch,
                rank=rank,
                world=world,
                least=least,
                block_rows=8,
                group_rows=50,
                align=align,
                shuffle=shuffle,
                done=done,
            )
            for rank in range(world)
        ]

    seen, done = [], []
    for past, size, steps in worlds:
        found = plans(past, size, done)
        seen += [p.rows[: p.batches[min(steps, p.steps)]] for p in found]
        done.append(Done(world=past, batch=size, steps=steps))
    last = plans(world, batch, done)
    together = np.concatenate([*seen, *(p.rows for p in last)])
    assert sorted(together.tolist()) == [3 * r for r in range(rows)]
    assert len({p.steps for p in last}) == 1
    counts = [len(p.rows) for p in last]
    assert max(counts) - min(counts) <= 1
    for plan in last:
        sizes = np.diff(plan.batches)
        assert sizes.sum() == len(plan.rows)
        assert plan.groups[-1] == plan.steps
        if len(sizes):
            assert sizes.max() - sizes.min() <= 1
            assert sizes.max() <= max(batch, 2 * least, least + 1)


def test_a_batch_of_a_plan_draws_from_a_hundred_blocks_at_the_default_sizes():
    row_bytes = 64 * 384 * 2
    block, group = block_rows(row_bytes), group_rows(row_bytes)
    for rows in (5_000, 6_100, 20_000, 100_000):
        plan = epoch_plan(
            np.arange(rows), seed=1, epoch=0, batch=1024, block_rows=block, group_rows=group, align=8
        )
        for low, high in zip(plan.batches[:-1], plan.batches[1:], strict=True):
            assert len(np.unique(plan.rows[low:high] // block)) >= 100
        sizes = np.diff(plan.batches[plan.groups])
        assert sizes.max() <= 1.5 * group + 1024


@pytest.mark.parametrize("row_bytes", [4 << 10, 64 * 384 * 2, 196 * 768 * 2, 257 * 1024 * 2])
@pytest.mark.parametrize("world", [1, 3])
def test_a_batch_of_1024_draws_from_a_hundred_blocks_whatever_the_size_of_a_row(row_bytes, world):
    """Blocks counted wherever the epoch may have let them begin, so that none counts twice."""
    block, group = block_rows(row_bytes), group_rows(row_bytes)
    rows = world * max(3 * group, 6 * 1024)
    for rank in range(world):
        plan = epoch_plan(
            np.arange(rows),
            seed=2,
            epoch=1,
            batch=1024,
            rank=rank,
            world=world,
            block_rows=block,
            group_rows=group,
        )
        for low, high in itertools.pairwise(plan.batches):
            batch = plan.rows[low:high]
            starts = range(0, block, max(1, block // 64))
            assert min(len(np.unique((batch + start) // block)) for start in starts) >= 100


def test_an_epoch_has_as_many_steps_as_its_plan():
    for rows, world, batch, least in ((0, 1, 4, 1), (10, 3, 2, 1), (7, 2, 8, 2), (100, 4, 9, 2)):
        plan = epoch_plan(
            np.arange(rows), seed=0, epoch=0, batch=batch, rank=0, world=world, least=least, shuffle="none"
        )
        assert plan.steps == epoch_steps(rows, world=world, batch=batch, least=least)


def test_what_no_plan_could_be():
    for options, words in (({"rank": 1}, "bad rank"), ({"batch": 0}, "at least one row")):
        with pytest.raises(UsageError, match=words):
            epoch_plan(np.arange(4), seed=0, epoch=0, **{"batch": 2, **options})
