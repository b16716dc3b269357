"""int8 and fp8: bounds by formula, and torch's own e4m3 as the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedstore.store.coding.scaled import (
    E4M3,
    channel_statistics,
    decode_fp8,
    decode_int8,
    encode_fp8,
    encode_int8,
    to_e4m3,
)

VALUES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 8)),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
)


@given(VALUES)
def test_int8_is_within_half_a_step_of_each_channel(x):
    mean, deviation = channel_statistics(x)
    assert (deviation > 0).all()
    codes, scales = encode_int8(x, mean, deviation)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= 127
    wide = x.astype(np.float64)
    gap = np.abs(decode_int8(codes, scales, mean, deviation).astype(np.float64) - wide)
    step = scales.astype(np.float64)[:, None] * deviation
    # Float32 rounding of the difference, the quotient and the sum.
    slack = 4e-7 * (np.abs(wide) + np.abs(mean) + 127 * step)
    assert (gap <= 0.5 * step + slack).all()


@given(VALUES)
def test_fp8_is_within_its_bound(x):
    codes, scales = encode_fp8(x)
    gap = np.abs(decode_fp8(codes, scales).astype(np.float64) - x)
    wide = np.abs(x.astype(np.float64))
    assert (gap <= np.maximum(wide / 16, scales[:, None] / 1024.0) * (1 + 1e-6) + 1e-30).all()


@given(hnp.arrays(np.float32, 64, elements=st.floats(-448, 448, width=32)))
def test_e4m3_rounds_as_torch_does(x):
    wanted = torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(to_e4m3(x), wanted)


def test_every_e4m3_byte_has_the_value_that_torch_gives_it():
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(E4M3, every)
    finite = E4M3[np.isfinite(E4M3)]
    np.testing.assert_array_equal(E4M3[to_e4m3(finite)], finite)


def test_a_massive_channel_costs_the_others_nothing():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 16)).astype(np.float32)
    massive = x.copy()
    massive[:, 3] = 400 + 30 * massive[:, 3]
    for values in (x, massive):
        mean, deviation = channel_statistics(values)
        y = decode_int8(*encode_int8(values, mean, deviation), mean, deviation)
        others = np.delete(y - values, 3, axis=1)
        assert np.abs(others).max() < 0.02


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_tokens_come_back_exactly(value):
    x = np.full((4, 8), value, np.float32)
    mean, deviation = channel_statistics(x)
    codes, scales = encode_int8(x, mean, deviation)
    np.testing.assert_array_equal(decode_int8(codes, scales, mean, deviation), x)
    np.testing.assert_array_equal(decode_fp8(*encode_fp8(x)), x)


def test_statistics_are_those_of_the_slow_twin():
    x = np.random.default_rng(1).normal(size=(50, 2, 6)).astype(np.float32)
    mean, deviation = channel_statistics(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(deviation, x.astype(np.float64).std(axis=0), rtol=1e-5)
