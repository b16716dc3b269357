"""crc32c of joined bytes from the crc32c of the parts, so that bytes are looked at once."""

from __future__ import annotations

from functools import lru_cache

# The Castagnoli polynomial of RFC 3720, bits reversed.
_POLYNOMIAL = 0x82F63B78
_Tables = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _apply(matrix: list[int], vector: int) -> int:
    """A 32 × 32 matrix over GF(2), given by its columns, times a vector of 32 bits."""
    found = 0
    for bit in range(32):
        if vector >> bit & 1:
            found ^= matrix[bit]
    return found


@lru_cache(maxsize=64)
def _shift_tables(nbytes: int) -> _Tables:
    """What `nbytes` zero bytes do to a crc32c, as four tables of a byte each.

    One zero bit is a matrix; many are its power, by squaring (Mark Adler's way for zlib's crc32_combine).
    """
    power = [_POLYNOMIAL, *(1 << bit for bit in range(31))]
    result = [1 << bit for bit in range(32)]
    bits = 8 * nbytes
    while bits:
        if bits & 1:
            result = [_apply(power, column) for column in result]
        power = [_apply(power, column) for column in power]
        bits >>= 1
    first, second, third, fourth = (
        tuple(_apply(result, byte << (8 * place)) for byte in range(256)) for place in range(4)
    )
    return first, second, third, fourth


def combine(crc: int, tail: int, nbytes: int) -> int:
    """crc32c of A followed by B, from `crc` of A, and `tail` and `nbytes` of B."""
    a, b, c, d = _shift_tables(nbytes)
    return a[crc & 255] ^ b[crc >> 8 & 255] ^ c[crc >> 16 & 255] ^ d[crc >> 24] ^ tail
