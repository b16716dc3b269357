"""The caption of an epoch: pure, uniform, and never of the wrong kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.stream.choice import CaptionTable, counter_random, mixed

MASK = 2**64 - 1


def slow_mixed(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def table(counts):
    owners = np.repeat(np.arange(len(counts)), counts)
    return CaptionTable.build(images=len(counts), image_of=owners, usable=np.ones(len(owners), bool))


def test_the_generator_is_splitmix64():
    # The first three outputs of the public reference from the state 1234567.
    state, wanted = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(state + i * 0x9E3779B97F4A7C15) & MASK for i in range(3)]
    assert mixed(np.array(states, np.uint64)).tolist() == wanted


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_the_vectorised_generator_equals_plain_integers(values):
    assert mixed(np.array(values, np.uint64)).tolist() == [slow_mixed(v) for v in values]


@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=40),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    data=st.data(),
)
def test_a_choice_depends_on_seed_epoch_and_row_only(counts, seed, epoch, data):
    captions = table(counts)
    rows = np.arange(len(counts))
    chosen = captions.choose(rows, seed=seed, epoch=epoch)
    assert ((captions.starts[rows] <= chosen) & (chosen < captions.starts[rows + 1])).all()
    some = np.array(data.draw(st.permutations(rows.tolist())))[: max(1, len(rows) // 2)]
    assert (captions.choose(some, seed=seed, epoch=epoch) == chosen[some]).all()


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_every_caption_is_taken_alike(count):
    captions = table([count] * 2000)
    rows = np.arange(2000)
    taken = np.concatenate([captions.choose(rows, seed=3, epoch=e) - rows * count for e in range(10)])
    found = np.bincount(taken, minlength=count)
    expected = len(taken) / count
    # Chi-square with count-1 degrees: 30 is beyond the 0.99999 quantile of 6 degrees.
    assert ((found - expected) ** 2 / expected).sum() < 30


def test_epochs_seeds_and_rows_are_independent_draws():
    rows = np.arange(4000)
    draws = [counter_random(s, e, rows) >> np.uint64(63) for s in (0, 1) for e in (0, 1)]
    draws.append(np.roll(draws[0], 1))
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            # Two fair coins agree half of the time; 0.04 is five standard deviations.
            assert abs(float((a == b).mean()) - 0.5) < 0.04


def test_only_usable_texts_of_a_picture_are_in_the_table():
    image_of = np.array([1, 1, -1, 0, 1, 3])
    usable = np.array([True, False, True, True, True, True])
    captions = CaptionTable.build(images=4, image_of=image_of, usable=usable)
    assert captions.counts(np.arange(4)).tolist() == [1, 2, 0, 1]
    assert captions.texts.tolist() == [3, 0, 4, 5]
