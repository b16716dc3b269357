"""Eight bits a value with a scale a token: int8 after standardising channels, and fp8 (e4m3).

Errors, with s the token's scale: int8 `|x̂ − x| ≤ s σ_c / 2` in channel c; fp8
`|x̂ − x| ≤ max(|x| / 16, s / 1024)`; both besides float32 rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, ByteArray, Float32Array

INT8_MOST = 127
FP8_MOST = 448.0
FP8_NAN = 0x7F
# Deviations below this share of their root mean square are taken as that share: a channel that is all but
# constant must not claim the whole range of a token that differs.
LEAST_DEVIATION = 1e-3


def channel_statistics(values: AnyArray) -> tuple[Float32Array, Float32Array]:
    """Mean and standard deviation over the first axis of `values (n, …, d)`; deviations above 0."""
    mean = values.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.mean(np.square(values - mean), axis=0, dtype=np.float64))
    typical = float(np.sqrt(np.mean(spread**2))) or 1.0
    return mean.astype(np.float32), np.maximum(spread, LEAST_DEVIATION * typical).astype(np.float32)


def encode_int8(
    values: Float32Array, mean: Float32Array, deviation: Float32Array
) -> tuple[AnyArray, Float32Array]:
    """Finite `(…, d)` to codes int8 `(…, d)` in ±127 and scales `(…)`; a constant token has scale 0."""
    y = (values - mean) / deviation
    scales: Float32Array = np.abs(y).max(axis=-1) / np.float32(INT8_MOST)
    y /= np.where(scales > 0, scales, np.float32(1))[..., None]
    return np.clip(np.rint(y), -INT8_MOST, INT8_MOST).astype(np.int8), scales


def decode_int8(
    codes: AnyArray, scales: Float32Array, mean: Float32Array, deviation: Float32Array
) -> Float32Array:
    """`code · scale · σ + μ`, float32."""
    out = codes.astype(np.float32)
    out *= scales[..., None]
    out *= deviation
    out += mean
    return out


def encode_fp8(values: Float32Array) -> tuple[ByteArray, Float32Array]:
    """Finite `(…, d)` to e4m3 bytes `(…, d)` and scales `(…)` that map a token's largest value to 448."""
    scales: Float32Array = np.abs(values).max(axis=-1) / np.float32(FP8_MOST)
    scaled: AnyArray = values / np.where(scales > 0, scales, np.float32(1))[..., None]
    return to_e4m3(scaled), scales


def decode_fp8(codes: ByteArray, scales: Float32Array) -> Float32Array:
    """`value · scale`, float32."""
    out = E4M3[codes]
    out *= scales[..., None]
    return out


def to_e4m3(values: Float32Array) -> ByteArray:
    """Finite values in ±448 to the nearest e4m3 value, ties to even; beyond, the largest."""
    size = np.minimum(np.abs(values), np.float32(FP8_MOST))
    exponent = np.maximum(np.frexp(size)[1] - 1, -6)
    steps = np.rint(np.ldexp(size, 3 - exponent)).astype(np.int32)
    # Sixteen steps are the next power of two; below eight steps a value is subnormal, its exponent field 0.
    code = np.where(steps >= 8, ((exponent + 6) << 3) + steps, steps)
    signed: ByteArray = (code | (np.signbit(values).astype(np.int32) << 7)).astype(np.uint8)
    return signed


def _table() -> Float32Array:
    """The value of every byte: sign, four bits of exponent (bias 7), three of fraction; no infinity, one NaN.

    Source: "FP8 formats for deep learning", Micikevicius and others, 2022, table 1.
    """
    byte = np.arange(256)
    exponent, fraction = (byte >> 3) & 15, byte & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(1.0 * fraction, -9))
    size[(byte & 0x7F) == FP8_NAN] = np.nan
    table: Float32Array = np.where(byte >= 128, -size, size).astype(np.float32)
    return table


E4M3 = _table()
E4M3.flags.writeable = False
