"""Arrow arrays over NumPy buffers: the same memory, nothing copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, IntArray


def fixed_lists(values: AnyArray) -> pa.Array:
    """`(n, ...)` in C order as n fixed-size lists, one level an axis; `(n,)` as plain numbers."""
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    found = pa.Array.from_buffers(kind, flat.size, [None, pa.py_buffer(flat)])
    for axis in range(values.ndim - 1, 0, -1):
        width, count = values.shape[axis], int(np.prod(values.shape[:axis], dtype=np.int64))
        kind = pa.list_(kind, width)
        found = pa.Array.from_buffers(kind, count, [None], children=[found])
    return found


def large_lists(values: AnyArray, offsets: IntArray) -> pa.Array:
    """Packed `(sum, ...)`, cut by `offsets (b + 1,)` int64, as b lists."""
    inner = fixed_lists(values)
    cuts = pa.py_buffer(np.ascontiguousarray(offsets, np.int64))
    return pa.Array.from_buffers(pa.large_list(inner.type), len(offsets) - 1, [None, cuts], children=[inner])
