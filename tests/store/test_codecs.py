from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedstore.errors import StorageValueError
from embedstore.store.coding import codecs
from embedstore.store.coding.codecs import FLOATS

VALUES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.floats(-65000, 65000, width=32),
)


@given(VALUES)
def test_float32_keeps_every_bit(values):
    stored = FLOATS["float32"].encode(values, array="tokens")
    assert stored.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(FLOATS["float32"].decode(stored), values)


@given(VALUES)
def test_float16_rounds_to_nearest(values):
    stored = FLOATS["float16"].encode(values, array="tokens")
    assert stored.dtype == np.dtype("<f2")
    back = FLOATS["float16"].decode(stored)
    assert back.dtype == np.float32
    bound = np.maximum(np.abs(values.astype(np.float64)) * 2.0**-11, 2.0**-25)
    assert (np.abs(back.astype(np.float64) - values) <= bound).all()


@given(hnp.arrays(np.float32, 40, elements=st.floats(width=32)))
def test_bfloat16_rounds_as_torch_does(values):
    values = values[np.abs(values) < 3.38e38]
    stored = FLOATS["bfloat16"].encode(values, array="tokens")
    assert stored.dtype == np.dtype("<u2")
    wanted = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(stored, wanted.view(torch.uint16).numpy())
    np.testing.assert_array_equal(FLOATS["bfloat16"].decode(stored), wanted.float().numpy())


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 3.4e38])
def test_bfloat16_refuses_what_it_cannot_hold(value):
    values = np.zeros((3, 2), np.float32)
    values[1, 0] = value
    with pytest.raises(StorageValueError, match="row 1 of tokens has a value that bfloat16 cannot hold"):
        FLOATS["bfloat16"].encode(values, array="tokens")


@pytest.mark.parametrize("policy", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(policy, value, monkeypatch):
    monkeypatch.setattr(codecs, "_SLICE_BYTES", 40)
    values = np.zeros((9, 2, 3), np.float32)
    values[7, 1, 2] = value
    with pytest.raises(
        StorageValueError, match=rf"(?s)row 107 of pooled.*{value} at element \(1, 2\).*quarantine"
    ):
        FLOATS[policy].encode(values, array="pooled", first=100)
    stored = values.astype(FLOATS[policy].dtype)
    with pytest.raises(StorageValueError, match="row 7 of pooled"):
        FLOATS[policy].encode(stored, array="pooled")


def test_overflow_names_row_value_and_the_policy_that_holds_it():
    values = np.zeros((4, 2), np.float32)
    values[2, 0] = 65520.0
    with pytest.raises(StorageValueError, match=r"(?s)row 30 of tokens.*65520\.0.*±65504.*policy float32"):
        FLOATS["float16"].encode(values, array="tokens", rows=np.array([10, 20, 30, 40]))
    values[2, 0] = 65519.0
    assert FLOATS["float16"].encode(values, array="tokens")[2, 0] == 65504


def test_no_copy_where_the_dtype_is_the_stored_one():
    values = np.ones((3, 2), np.float16)
    assert FLOATS["float16"].encode(values, array="tokens") is values
    assert FLOATS["float16"].encode(values[:, :1], array="tokens").flags.c_contiguous
    assert FLOATS["float16"].encode(values[:0], array="tokens").shape == (0, 2)
