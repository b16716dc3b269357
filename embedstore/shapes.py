"""The axes and array types that every signature and docstring of this library uses.

Axes
    b  batch: samples (or texts) handled at once
    t  image tokens, patches only, row-major over the grid
    p  prefix tokens of an image: CLS first, then the registers
    l  text tokens, special tokens included
    d  width of an encoder
    e  width of the joint space
    n  rows of a table or feature
    q  queries
    c  classes or concepts

Types: `FloatArray` is any floating NumPy array; its axes and dtype stand in the docstring.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
AnyArray: TypeAlias = npt.NDArray[Any]
