"""Arrow, DLPack and NumPy see the same bytes at the same place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.store.arrow import fixed_lists, large_lists
from embedstore.testing.stores import write_random_store

DTYPES = ["float16", "float32", "uint16", "int8", "uint8", "int32"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("stores") / "plain", images=20, captions=2)


def leaf(found):
    """The numbers below all lists."""
    while hasattr(found, "values"):
        found = found.values
    return found


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=4), dtype=st.sampled_from(DTYPES))
def test_lists_hold_the_array_and_share_its_memory(shape, dtype):
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    found = fixed_lists(values)
    found.validate(full=True)
    assert len(found) == shape[0]
    assert found.to_pylist() == values.tolist()
    if values.size:
        assert leaf(found).buffers()[1].address == values.ctypes.data


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), max_size=6), width=st.integers(1, 3))
def test_packed_tokens_are_large_lists_of_the_same_memory(lengths, width):
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    tokens = np.arange(offsets[-1] * width, dtype=np.float16).reshape(-1, width)
    found = large_lists(tokens, offsets)
    found.validate(full=True)
    wanted = [tokens[a:b].tolist() for a, b in pairwise(offsets)]
    assert found.to_pylist() == wanted
    assert found.buffers()[1].address == offsets.ctypes.data
    if tokens.size:
        assert leaf(found).buffers()[1].address == tokens.ctypes.data


def test_a_feature_gives_its_rows(store):
    vision, rows = store["vision"], [7, 3, 3]
    tokens = vision.to_arrow(rows)
    assert str(tokens.type) == ("fixed_size_list<item: fixed_size_list<item: halffloat>[16]>[9]")
    np.testing.assert_array_equal(leaf(tokens).to_numpy().reshape(3, 9, 16), vision.gather("tokens", rows))
    assert vision.to_arrow(range(5), "status").to_pylist() == [0] * 5
    assert len(vision.to_arrow([], "pooled")) == 0


def test_texts_come_as_lists_of_their_tokens(store):
    packed = store["words"].text_tokens([5, 0])
    assert packed.to_arrow().to_pylist() == store["words"].to_arrow([5, 0]).to_pylist()
    assert [len(text) for text in packed.to_arrow()] == packed.lengths.tolist()
    assert leaf(packed.to_arrow()).buffers()[1].address == packed.tokens.ctypes.data
    assert store["words"].to_arrow([5, 0], "lengths").to_pylist() == packed.lengths.tolist()


def test_dlpack_carries_rows_and_batches_over_without_a_copy(store):
    torch = pytest.importorskip("torch")
    from embedstore.stream.dataset import TokenStream

    rows = store["vision"].gather("tokens", [1, 2])
    assert torch.from_dlpack(rows).data_ptr() == rows.ctypes.data
    for batch in TokenStream(store["vision"], batch_size=7):
        assert np.from_dlpack(batch.tokens).ctypes.data == batch.tokens.data_ptr()
