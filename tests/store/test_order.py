from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store import block_rows, epoch_order, group_rows

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
