"""How stretches are cut into pieces, runs and tasks: nothing is lost, nothing comes twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstore.store.reads import pieces as cutting

stretches = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=20).map(sorted)


@given(found=stretches, size=st.sampled_from([1, 2, 8, 64]))
def test_pieces_are_the_stretches_cut_at_chunk_borders(found, size):
    starts, lengths = (np.array(x, np.int64) for x in zip(*found, strict=True))
    targets = np.cumsum(lengths) - lengths
    pieces = cutting.cut(starts, lengths, targets, size)
    assert (pieces.first + pieces.places <= size).all()
    assert (np.diff(pieces.chunk * size + pieces.first) >= 0).all()
    places = [
        (t + k, c * size + f + k)
        for c, f, n, t in zip(pieces.chunk, pieces.first, pieces.places, pieces.target, strict=True)
        for k in range(n)
    ]
    wanted = [(t + k, s + k) for s, n, t in zip(starts, lengths, targets, strict=True) for k in range(n)]
    assert sorted(places) == sorted(wanted)


@given(found=stretches, size=st.sampled_from([2, 8]))
def test_a_chunk_is_covered_where_each_of_its_places_comes_once(found, size):
    starts, lengths = (np.array(x, np.int64) for x in zip(*found, strict=True))
    pieces = cutting.cut(starts, lengths, np.cumsum(lengths) - lengths, size)
    covered = cutting.covered(pieces, size)
    for chunk in np.unique(pieces.chunk):
        mine = pieces.chunk == chunk
        times = np.zeros(size, int)
        for first, places in zip(pieces.first[mine], pieces.places[mine], strict=True):
            times[first : first + places] += 1
        assert covered[mine].all() == covered[mine].any() == (times == 1).all()


@given(
    values=st.lists(st.integers(0, 100), min_size=1, max_size=30).map(sorted),
    most=st.integers(1, 40),
    apart=st.lists(st.booleans(), min_size=29, max_size=29),
)
def test_runs_end_where_they_must_and_grow_no_larger(values, most, apart):
    cuts = np.array(apart[: len(values) - 1], bool)
    bounds = cutting.run_bounds(cuts, np.array(values), most)
    assert (bounds[0], bounds[-1]) == (0, len(values))
    assert set(np.flatnonzero(cuts) + 1) <= set(bounds.tolist())
    for low, high in pairwise(bounds):
        assert low < high
        assert values[high - 1] - values[low] < most
