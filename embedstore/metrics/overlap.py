"""Mutual nearest neighbours: whether two encoders find the same rows alike (Huh et al. 2024, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray, IntArray


def others_only(rows: IntArray) -> IntArray:
    """The k nearest *other* rows `(n, k)`, from the k + 1 nearest of all `(n, k + 1)`, best first.

    Row i leaves its own list; where k + 1 rows equal to it stand before it, the last one leaves instead.
    """
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True
    others: IntArray = rows[~own].reshape(len(rows), rows.shape[1] - 1)
    return others


def mutual_overlap(left: IntArray, right: IntArray) -> FloatArray:
    """Share of row i's k neighbours that both sides name, `(n,)` float64, from `(n, k)` lists of rows.

    No row may stand twice in a list. Its mean is k ÷ (n - 1) for sides that have nothing in common.
    """
    if left.shape != right.shape or left.ndim != 2 or not left.shape[1]:
        raise UsageError("lists of neighbours must be (n, k) twice", found=(left.shape, right.shape))
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    shared: FloatArray = np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1) / left.shape[1]
    return shared
