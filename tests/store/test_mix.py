"""Mixed epochs: exact shares in the epoch and in every batch, whatever the ranks, and however it is cut."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store import Done
from embedstore.store.mix import MixedRows, mix_counts

PARTS = st.lists(st.tuples(st.integers(2, 90), st.integers(1, 12)), min_size=1, max_size=4)
ORDERS = {
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 50),
    "block_rows": st.integers(1, 20),
    "group_rows": st.integers(1, 100),
    "align": st.integers(1, 3),
    "least": st.integers(1, 2),
    "shuffle": st.sampled_from(["blocks", "full", "none"]),
}


def mix_of(parts):
    """Parts with these sizes and shares, their rows between each other."""
    sizes = [n for n, _ in parts]
    owner = np.random.default_rng(sum(sizes)).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = tuple(np.flatnonzero(owner == i) * 2 for i in range(len(sizes)))
    return MixedRows(rows, tuple(Fraction(s) for _, s in parts))


def tally(mix, rows):
    return [int(np.isin(rows, part).sum()) for part in mix.parts]


def fits(found, rows, shares):
    """Whether every count is `rows` times its share of the epoch, rounded down or up."""
    whole = sum(shares)
    return all(
        rows * share // whole <= count <= -(-rows * share // whole)
        for count, share in zip(found, shares, strict=True)
    )


@given(PARTS)
def test_an_epoch_takes_as_many_as_the_shares_allow(parts):
    sizes, shares = [n for n, _ in parts], [Fraction(s) for _, s in parts]
    counts, whole = mix_counts(sizes, shares), sum(shares)
    assert all(count <= size for count, size in zip(counts, sizes, strict=True))
    assert fits(counts, sum(counts), shares)
    one_more = sum(counts) + 1
    assert any(one_more * share > size * whole for size, share in zip(sizes, shares, strict=True))


@settings(max_examples=200, deadline=None)
@given(parts=PARTS, world=st.integers(1, 4), batch=st.integers(2, 40), order=st.fixed_dictionaries(ORDERS))
def test_every_batch_has_the_shares_and_no_row_comes_twice(parts, world, batch, order):
    mix = mix_of(parts)
    counts = mix.counts
    plans = [mix.plan(batch=batch, rank=r, world=world, **order) for r in range(world)]
    together = np.concatenate([plan.rows for plan in plans])
    assert len(np.unique(together)) == len(together) == sum(counts)
    assert tally(mix, together) == list(counts)
    assert len({plan.steps for plan in plans}) == 1
    sizes = np.concatenate([np.diff(plan.batches) for plan in plans])
    assert sizes.max() - sizes.min() <= 1
    for plan in plans:
        assert plan.batches[-1] == len(plan.rows)
        assert (plan.groups[0], plan.groups[-1]) == (0, plan.steps)
        for low, high in pairwise(plan.batches):
            assert fits(tally(mix, plan.rows[low:high]), int(high - low), counts)


@settings(max_examples=60, deadline=None)
@given(parts=PARTS, seed=st.integers(0, 99), shuffle=ORDERS["shuffle"], epochs=st.integers(1, 12))
def test_over_the_epochs_the_rows_of_a_part_take_turns(parts, seed, shuffle, epochs):
    mix = mix_of(parts)
    plans = [mix.plan(seed=seed, epoch=e, batch=8, shuffle=shuffle, block_rows=3) for e in range(epochs)]
    rows, often = np.unique(np.concatenate([plan.rows for plan in plans]), return_counts=True)
    for part, count in zip(mix.parts, mix.counts, strict=True):
        seen = np.zeros(len(part), int)
        here = np.isin(part, rows)
        seen[here] = often[np.searchsorted(rows, part[here])]
        assert seen.min() >= epochs * count // len(part)
        assert seen.max() <= -(-epochs * count // len(part))


@settings(max_examples=100, deadline=None)
@given(
    parts=PARTS,
    stops=st.lists(
        st.tuples(st.integers(1, 3), st.integers(2, 20), st.integers(0, 4)), min_size=1, max_size=3
    ),
    order=st.fixed_dictionaries(ORDERS),
)
def test_an_epoch_goes_on_with_any_world_and_batch(parts, stops, order):
    """After any steps on any worlds, what is left is the rest of the same epoch, in its own shares."""
    mix = mix_of(parts)
    whole = mix.plan(batch=7, **order).rows
    done, read = [], []
    for world, batch, steps in stops:
        plans = [mix.plan(batch=batch, rank=r, world=world, done=done, **order) for r in range(world)]
        left = tally(mix, np.concatenate([plan.rows for plan in plans]))
        for plan in plans:
            cut = plan.batches[: steps + 1]
            read.append(plan.rows[: cut[-1]])
            for low, high in pairwise(cut):
                assert fits(tally(mix, plan.rows[low:high]), int(high - low), left)
        done.append(Done(world=world, batch=batch, steps=steps))
    read.append(mix.plan(batch=5, done=done, **order).rows)
    assert sorted(np.concatenate(read).tolist()) == sorted(whole.tolist())


def test_the_order_depends_on_seed_and_epoch_alone():
    mix = mix_of([(80, 3), (60, 1)])
    plans = {
        (s, e): mix.plan(seed=s, epoch=e, batch=16, block_rows=4).rows.tolist()
        for s in (1, 2)
        for e in (0, 1)
    }
    assert plans[1, 1] == mix.plan(seed=1, epoch=1, batch=16, block_rows=4).rows.tolist()
    assert len({tuple(rows) for rows in plans.values()}) == 4


def test_neighbours_are_read_together_and_groups_hold_many_batches():
    """As without a mix, rows come in blocks; batches are mixed inside a group."""
    parts = (np.arange(0, 4000), np.arange(4000, 10000))
    mix = MixedRows(parts, (Fraction(1), Fraction(3)))
    plan = mix.plan(seed=3, epoch=2, batch=50, block_rows=25, group_rows=500)
    assert 9 <= len(plan.groups) - 1 <= 17
    for first, last in pairwise(plan.groups):
        rows = np.sort(plan.rows[plan.batches[first] : plan.batches[last]])
        runs = 1 + int((np.diff(rows) > 1).sum())
        assert runs <= len(rows) / 10


@pytest.mark.parametrize(
    ("parts", "shares", "words"),
    [
        ((), (), "a mix has parts"),
        (([1, 2], [3]), (1,), "a mix has parts"),
        (([1, 2], [3]), (1, 0), "a share above 0"),
        (([1, 2], [2, 3]), (1, 1), "rows in common"),
    ],
)
def test_bad_mixes(parts, shares, words):
    with pytest.raises(UsageError, match=words):
        MixedRows(tuple(np.array(p) for p in parts), tuple(Fraction(s) for s in shares))


def test_bad_orders():
    mix = mix_of([(8, 1), (8, 1)])
    with pytest.raises(UsageError, match="bad rank"):
        mix.plan(seed=0, epoch=0, batch=4, rank=2, world=2)
    with pytest.raises(UsageError, match="at least one row"):
        mix.plan(seed=0, epoch=0, batch=0)
    with pytest.raises(UsageError, match="unknown order"):
        mix.plan(seed=0, epoch=0, batch=4, shuffle="any")
