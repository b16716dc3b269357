"""Padded texts are what a loop over the texts makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store import Packed
from embedstore.testing.stores import write_random_store

LENGTHS = st.lists(st.integers(0, 9), max_size=12)


def packed_of(lengths, width=3, dtype=np.float16):
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    shape = (int(offsets[-1]), width) if width else (int(offsets[-1]),)
    return Packed(np.random.default_rng(0).normal(size=shape).astype(dtype), offsets)


def slow(packed, places):
    """One text after the other."""
    count = len(packed.offsets) - 1
    tokens = np.zeros((count, places, *packed.tokens.shape[1:]), packed.tokens.dtype)
    mask = np.zeros((count, places), bool)
    for i in range(count):
        for k, place in enumerate(range(packed.offsets[i], packed.offsets[i + 1])):
            tokens[i, k] = packed.tokens[place]
            mask[i, k] = True
    return tokens, mask


@given(lengths=LENGTHS, more=st.integers(0, 3), width=st.sampled_from([0, 1, 4]))
def test_padded_is_the_naive_construction(lengths, more, width):
    packed, longest = packed_of(lengths, width), max(lengths, default=0)
    for length in (None, longest + more):
        padded = packed.padded(length)
        tokens, mask = slow(packed, longest if length is None else length)
        np.testing.assert_array_equal(padded.tokens, tokens)
        np.testing.assert_array_equal(padded.mask, mask)
        assert padded.tokens.dtype == packed.tokens.dtype
        np.testing.assert_array_equal(padded.mask.sum(axis=1), packed.lengths)
        np.testing.assert_array_equal(padded.tokens[padded.mask], packed.tokens)


@given(lengths=LENGTHS.filter(lambda some: max(some, default=0) > 0))
def test_a_text_that_is_too_long_is_refused(lengths):
    with pytest.raises(UsageError, match=rf"more tokens than there is room(.|\n)*found: {max(lengths)}"):
        packed_of(lengths).padded(max(lengths) - 1)


@pytest.mark.parametrize("policy", ["float16", "float32", "bfloat16"])
def test_a_feature_pads_decoded_texts(tmp_path, policy):
    words = write_random_store(tmp_path / "s", images=12, captions=2, policy=policy)["words"]
    for rows in ([5, 3, 3, 23, 0], slice(4, 19), range(0), np.arange(24)):
        padded, packed = words.padded_text(rows), words.decoded_text(rows)
        tokens, mask = slow(packed, int(packed.lengths.max(initial=0)))
        np.testing.assert_array_equal(padded.tokens, tokens)
        np.testing.assert_array_equal(padded.mask, mask)
        assert padded.tokens.dtype == np.float32
    assert words.padded_text([1, 2], length=8).tokens.shape == (2, 8, 12)
    with pytest.raises(UsageError, match="up to 0"):
        words.padded_text([1], length=0)
