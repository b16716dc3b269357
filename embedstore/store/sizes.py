"""How many bytes a feature will take, before it is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store.geometry import is_packed
from embedstore.store.shard import CRC, slot_bytes

if TYPE_CHECKING:
    from embedstore.documents import ArraySpec, FeatureHeader

_INDEX_ENTRY = 16


def shard_nbytes(spec: ArraySpec, used: int) -> int:
    """Bytes of one shard file with `used` places: whole chunks with their checksums, and the index."""
    slot = slot_bytes(spec.chunk * math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize)
    return -(-used // spec.chunk) * slot + spec.shard // spec.chunk * _INDEX_ENTRY + CRC


def feature_nbytes(header: FeatureHeader, *, tokens_per_row: float = 0.0) -> int:
    """Bytes of all shards of a feature, thumbnails and documents left out.

    Exact for images. Text tokens are ragged: `tokens_per_row` is their mean, and each unit is taken to hold
    just that many a row.
    """
    if not header.units:
        return 0

    first, last = (unit_nbytes(header, u, tokens_per_row=tokens_per_row) for u in (0, header.units - 1))
    return first * (header.units - 1) + last


def unit_nbytes(header: FeatureHeader, unit: int, *, tokens_per_row: float = 0.0) -> int:
    """Bytes of the shards of one unit, as `feature_nbytes` counts them."""
    return counted_nbytes(header, unit, tokens=round(len(header.unit_rows(unit)) * tokens_per_row))


def counted_nbytes(header: FeatureHeader, unit: int, *, tokens: int) -> int:
    """Bytes of the shards of one unit whose texts have so many tokens together; exact."""
    rows = len(header.unit_rows(unit))
    return sum(shard_nbytes(a, tokens if is_packed(header, a) else rows) for a in header.arrays)
