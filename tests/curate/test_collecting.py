"""The balanced choice against a reference of thirty lines, from the vectors to the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.curate.collecting import balanced
from embedstore.curate.pool import unit_vectors
from embedstore.index.screen import GRID, best_of


def reference(concepts, pool, *, keep, per_concept, order, floor=None, samples=None, groups=None, cap=None):
    """Whole matrix, sorted; then one row at a time."""
    scores = np.round((concepts.astype(float)[:, None] * pool.astype(float)[None]).sum(-1) / GRID) * GRID
    rows = [r for r in range(len(pool)) if not np.isnan(pool[r, 0])]
    kept = [sorted(rows, key=lambda r, s=line: (-s[r], r))[:keep] for line in scores]
    common = [scores[c][np.sort(np.array(own, int))].mean() if own else 0.0 for c, own in enumerate(kept)]
    visits = sorted(range(len(kept)), key=lambda c: (common[c] if order == "rare-first" else -common[c], c))
    samples = np.arange(len(pool)) if samples is None else samples
    taken, used, lines = set(), {}, []
    for c in visits:
        # An image stands for itself by the best of its captions.
        best = {}
        for r in kept[c]:
            if samples[r] not in taken and (floor is None or scores[c, r] >= floor):
                best.setdefault(samples[r], r)
        rank = 0
        for sample, r in best.items():
            group = None if groups is None else groups[r]
            if rank < per_concept and (cap is None or used.get(group, 0) < cap):
                rank += 1
                taken.add(sample)
                used[group] = used.get(group, 0) + 1
                lines.append((r, c, rank, scores[c, r]))
    return lines, common


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 200),
    concepts=st.integers(1, 8),
    keep=st.integers(1, 60),
    share=st.integers(1, 5),
    block=st.integers(1, 210),
    order=st.sampled_from(["rare-first", "common-first"]),
    floor=st.none() | st.floats(-0.5, 0.9),
    options=st.sets(st.sampled_from(["samples", "groups"])),
)
def test_collect_equals_the_reference(seed, count, concepts, keep, share, block, order, floor, options):
    random = np.random.default_rng(seed)
    pool = unit_vectors(random.integers(-2, 3, size=(count, 3)).astype(np.float32))
    asked = unit_vectors(random.normal(size=(concepts, 3)))
    more = {"floor": floor}
    if "samples" in options:
        more["samples"] = random.integers(0, count, size=count)
    if "groups" in options:
        more |= {"groups": random.integers(0, 3, size=count), "cap": int(random.integers(1, 9))}
    per_concept = max(1, keep // share)
    found = balanced(
        best_of(asked, lambda at: pool[at], count, keep, block=block),
        per_concept=per_concept,
        order=order,
        **more,
    )
    lines, common = reference(asked, pool, keep=keep, per_concept=per_concept, order=order, **more)
    ours = zip(found.rows, found.concepts, found.ranks, found.scores, strict=True)
    assert [tuple(x.item() for x in line) for line in ours] == lines
    np.testing.assert_allclose(found.commonality, common, rtol=1e-12)


def test_a_planted_world_is_balanced_to_the_cap():
    """Thirty concepts of power-law frequency, far apart: the frequent ones give the cap, the others all."""
    random = np.random.default_rng(0)
    sizes = (6000 / np.arange(1, 31) ** 1.6).astype(int)
    centres = unit_vectors(random.normal(size=(30, 64)))
    own = random.permutation(np.repeat(np.arange(30), sizes))
    pool = unit_vectors(centres[own] + 0.05 * random.normal(size=(len(own), 64)))
    best = best_of(centres, lambda at: pool[at], len(pool), 400, block=512)
    found = balanced(best, per_concept=100, floor=0.6)
    np.testing.assert_array_equal(found.taken, np.minimum(sizes, 100))
    np.testing.assert_array_equal(own[found.rows], found.concepts)
    assert len(np.unique(found.rows)) == len(found.rows)
    # Commonality follows frequency where that is below what is kept.
    rare = sizes < 400
    assert np.corrcoef(sizes[rare], found.commonality[rare])[0, 1] > 0.9
    assert sizes[found.order[0]] < 50


def test_a_random_order_is_drawn_from_the_seed():
    pool = unit_vectors(np.random.default_rng(0).normal(size=(50, 3)))
    best = best_of(pool[:9], lambda at: pool[at], 50, 10)
    orders = [balanced(best, per_concept=2, order="random", seed=s).order.tolist() for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(9))


def test_bad_choices():
    pool = unit_vectors(np.eye(3))
    best = best_of(pool, lambda at: pool[at], 3, 1)
    with pytest.raises(Exception, match="--order"):
        balanced(best, per_concept=1, order="best-first")
    with pytest.raises(Exception, match="--per-concept"):
        balanced(best, per_concept=0)
