"""The pool in which duplicates are counted: copies as near as they are said to be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def curate_dedup():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    import curate_dedup

    yield curate_dedup
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("centres", [0, 10])
def test_copies_are_planted_above_the_limit_and_nothing_else(curate_dedup, centres):
    vectors, copies, originals = curate_dedup.planted_pool(1500, centres=centres)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    near = {tuple(sorted(pair)) for pair in np.argwhere(np.triu(scores > 1 - curate_dedup.EPS, 1)).tolist()}
    assert near == {tuple(sorted(p)) for p in zip(copies.tolist(), originals.tolist(), strict=True)}
    assert len(near) == 150


def test_the_row_tells_the_share_of_the_pairs(curate_dedup):
    row = curate_dedup._recall("dedup-recall", 3000, 300, centres=20)
    assert 0.9 < row.ratio <= 1
    assert "300 planted copies" in row.detail
    assert "of 300 sampled rows" in row.detail
