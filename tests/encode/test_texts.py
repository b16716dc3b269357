"""Batches of texts by a token budget."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstore.encode.texts import PADDED, token_batches


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=200), budget=st.integers(1, 2000))
def test_every_text_once_within_the_budget(lengths, budget):
    batches = list(token_batches(np.array(lengths), budget))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[k] for k in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=100))
def test_longest_first_and_ties_by_row(lengths):
    order = np.concatenate(list(token_batches(np.array(lengths), 128)))
    assert list(order) == sorted(range(len(lengths)), key=lambda k: (-lengths[k], k))


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=100), budget=st.integers(1, 5000))
def test_no_batch_is_padded_much(lengths, budget):
    lengths = np.maximum(lengths, 1)
    for batch in token_batches(lengths, budget):
        assert len(batch) * lengths[batch].max() <= PADDED * lengths[batch].sum()


def test_little_is_padded():
    lengths = np.random.default_rng(0).poisson(12, 4000) + 3
    batches = list(token_batches(lengths, 4096))
    computed = sum(len(b) * int(lengths[b].max()) for b in batches)
    assert computed / lengths.sum() < 1.1
