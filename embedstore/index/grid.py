"""Scores that are a function of the two vectors alone: the exact product, rounded to a multiple of 2^-28.

A float64 sum is the exact product but for a known error. Where that error cannot change to which multiple it
is rounded, the order of the sum does not matter; the few pairs where it can are summed without error. So a
score is the same from a dense and a sparse product, on every machine and device, and in every block.
"""

from __future__ import annotations

import warnings
from math import fsum
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.shapes import FloatArray, IntArray

GRID = 2.0**-28
_DENSE = 0.2


def grid_scores(queries: Tensor, vectors: Tensor, edges: IntArray, columns: IntArray) -> FloatArray:
    """Scores `(m,)` float64 of query r with the vectors `columns[edges[r] : edges[r + 1]]`, for every r.

    queries `(q, e)`, vectors `(b, e)`: float32 values of length 1 or less, held as float64. NaN stays NaN.
    """
    if len(columns) > _DENSE * len(queries) * len(vectors):
        lines = np.repeat(np.arange(len(queries)), np.diff(edges))
        found = torch.mm(queries, vectors.T).cpu().numpy()[lines, columns]
    else:
        found = _sampled(queries, vectors, edges, columns)
    found *= 1 / GRID
    rounded = np.rint(found)
    doubt = 0.5 - queries.shape[1] * 2.0**-52 / GRID
    for pair in np.flatnonzero(np.abs(found - rounded) > doubt).tolist():
        line = int(np.searchsorted(edges, pair, side="right")) - 1
        rounded[pair] = np.rint(fsum((queries[line] * vectors[columns[pair]]).tolist()) / GRID)
    scores: FloatArray = rounded * GRID
    return scores


def _sampled(queries: Tensor, vectors: Tensor, edges: IntArray, columns: IntArray) -> FloatArray:
    """Products of the named pairs only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is called a beta feature
        pairs = torch.sparse_csr_tensor(
            torch.from_numpy(edges),
            torch.from_numpy(columns),
            torch.zeros(len(columns), dtype=torch.float64),
            size=(len(queries), len(vectors)),
            check_invariants=False,
        ).to(queries.device)
        found: FloatArray = (
            torch.sparse.sampled_addmm(pairs, queries, vectors.T, beta=0.0).values().cpu().numpy()
        )
    return found
