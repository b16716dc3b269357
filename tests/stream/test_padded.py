"""Padded batches of texts equal what the store pads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedstore.encode import recode_feature
from embedstore.errors import UsageError
from embedstore.store import Packed
from embedstore.stream.batches import TextTokens
from embedstore.stream.dataset import TokenStream
from embedstore.testing.stores import write_random_store


@pytest.mark.parametrize("policy", ["float16", "fp8", "int8"])
def test_texts_can_be_padded(tmp_path, policy):
    store = write_random_store(tmp_path / "s", images=20, captions=2)
    recode_feature(store.path, "words", policy=policy, name="w")
    words = store["w"]
    seen = []
    for batch in TokenStream(words, batch_size=16):
        padded, wanted = batch.padded(), words.padded_text(batch.rows)
        np.testing.assert_array_equal(padded.tokens.numpy(), wanted.tokens)
        np.testing.assert_array_equal(padded.mask.numpy(), wanted.mask)
        assert batch.padded(20).tokens.shape == (len(batch.rows), 20, 12)
        assert (padded.tokens[~padded.mask] == 0).all()
        seen.append(padded.rows)
    assert sorted(np.concatenate(seen)) == list(range(40))
    with pytest.raises(UsageError, match="more tokens than there is room for"):
        batch.padded(0)


@given(lengths=st.lists(st.integers(0, 6), min_size=0, max_size=8))
def test_padding_tensors_is_padding_arrays(lengths):
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    tokens = np.random.default_rng(1).normal(size=(int(offsets[-1]), 3)).astype(np.float32)
    rows = np.arange(len(lengths))
    batch = TextTokens(rows=rows, tokens=torch.from_numpy(tokens), offsets=torch.from_numpy(offsets))
    found, wanted = batch.padded(), Packed(tokens, offsets).padded()
    np.testing.assert_array_equal(found.tokens.numpy(), wanted.tokens)
    np.testing.assert_array_equal(found.mask.numpy(), wanted.mask)
