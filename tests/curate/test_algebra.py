"""Unions, intersections, differences and samples against Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.curate import combine_subsets, sample_rows
from embedstore.curate.algebra import drawn
from embedstore.errors import UsageError
from embedstore.store import create_subset, open_store
from embedstore.testing.stores import write_random_store

ROWS = st.sets(st.integers(0, 39), min_size=0, max_size=40)


@given(
    some=st.lists(ROWS, min_size=2, max_size=4), operation=st.sampled_from(["union", "intersect", "subtract"])
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_operations_are_those_of_sets(store, some, operation):
    names = []
    for k, rows in enumerate(some):
        create_subset(
            store, f"s{k}", {"row": sorted(rows), "rank": [k * 100 + r for r in sorted(rows)]}, overwrite=True
        )
        names.append(f"s{k}")
    first, *others = some
    wanted = {"union": first.union, "intersect": first.intersection, "subtract": first.difference}[operation](
        *others
    )
    if not wanted:
        with pytest.raises(UsageError, match="nothing is left"):
            combine_subsets(store, operation, names, name="out", overwrite=True)
        return
    found = combine_subsets(store, operation, names, name="out", overwrite=True)
    assert found.rows.tolist() == sorted(wanted)
    for line in found.read().to_pylist():
        owners = [k for k, rows in enumerate(some) if line["row"] in rows]
        assert line["rank"] == owners[0] * 100 + line["row"]
        assert line["parent"] == ("s0" if operation == "subtract" else "+".join(f"s{k}" for k in owners))
    gone = found.read_dropped().to_pylist()
    if operation == "subtract":
        assert [line["row"] for line in gone] == sorted(first - wanted)
        assert all(
            line["reason"] == "in " + next(f"s{k}" for k, rows in enumerate(others, 1) if line["row"] in rows)
            for line in gone
        )
    else:
        assert not gone
    assert found.card.verb == operation
    assert [parent.name for parent in found.card.parents] == names
    assert [found.card.counts[f"in_{k + 1}"] for k in range(len(some))] == [len(rows) for rows in some]


def test_what_is_known_of_a_row_comes_from_one_operand_that_knows_why(store, tmp_path):
    """So a concept is never beside the score of another choice; a list of ids knows nothing."""
    (tmp_path / "list.txt").write_text("a000001\na000002\na000005\n")
    create_subset(store, "by-concept", {"row": [1, 3], "concept": ["cat", "dog"], "rank": [1, 1]})
    create_subset(
        store, "by-score", {"row": [1, 2, 3], "score": [0.1, 0.2, 0.3], "parent": ["pool", "pool", None]}
    )
    of = [str(tmp_path / "list.txt"), "by-concept", "by-score"]
    lines = (
        combine_subsets(store, "union", of, name="all")
        .read(["row", "concept", "score", "parent"])
        .to_pylist()
    )
    assert lines == [
        {"row": 1, "concept": "cat", "score": None, "parent": "list.txt+by-concept+by-score"},
        {"row": 2, "concept": None, "score": 0.2, "parent": "list.txt+by-score"},
        {"row": 3, "concept": "dog", "score": None, "parent": "by-concept+by-score"},
        {"row": 5, "concept": None, "score": None, "parent": "list.txt"},
    ]
    left = combine_subsets(store, "subtract", ["by-score", "by-concept"], name="rest")
    assert left.read(["row", "score", "parent"]).to_pylist() == [{"row": 2, "score": 0.2, "parent": "pool"}]
    settings = left.card.settings
    assert settings["of"] == ("by-score", "by-concept")
    assert all(len(digest) == 64 for digest in settings["of_sha256"])


def test_stores_of_a_join_are_operands_and_rows_narrow(store, tmp_path):
    write_random_store(tmp_path / "other", images=10, captions=2, ids="b", seed=3)
    both = open_store(f"{store.path}+{tmp_path / 'other'}")
    create_subset(both, "few", {"row": [0, 5, 41, 49]})
    found = combine_subsets(both, "intersect", ["other", "few"], name="new")
    assert found.rows.tolist() == [41, 49]
    assert [parent.kind for parent in found.card.parents] == ["store", "subset"]
    narrow = combine_subsets(both, "union", ["other", "few"], name="narrow", rows="few")
    assert narrow.rows.tolist() == [0, 5, 41, 49]
    assert narrow.card.settings["rows"] == "few"


def test_texts_and_images_do_not_go_together(store):
    create_subset(store, "pictures", {"row": [1]})
    create_subset(store, "words", {"row": [1, 2, 9]}, table="texts")
    with pytest.raises(UsageError, match="images and of texts do not go together"):
        combine_subsets(store, "union", ["pictures", "words"], name="x")
    with pytest.raises(UsageError, match="two operands at least"):
        combine_subsets(store, "union", ["pictures"], name="x")
    with pytest.raises(UsageError, match="the same operand twice"):
        combine_subsets(store, "union", ["pictures", "pictures"], name="x")
    with pytest.raises(UsageError, match="did you mean 'words'"):
        combine_subsets(store, "union", ["pictures", "wrods"], name="x")
    create_subset(store, "more", {"row": [2, 5]}, table="texts")
    of_images = combine_subsets(store, "union", ["words", "more"], name="y", rows="pictures")
    owners = store.texts(["image"])["image"].to_pylist()
    assert of_images.rows.tolist() == [row for row in (1, 2, 5, 9) if owners[row] == 1]


@given(
    pool=st.sets(st.integers(0, 2**40), min_size=2, max_size=60), seed=st.integers(0, 2**40), data=st.data()
)
def test_samples_of_one_seed_lie_in_each_other(pool, seed, data):
    rows = np.array(sorted(pool), np.int64)
    more = data.draw(st.integers(2, len(rows)))
    few = data.draw(st.integers(1, more - 1))
    large, small = drawn(rows, more, seed), drawn(rows, few, seed)
    assert len(set(large.tolist())) == more
    assert set(small.tolist()) < set(large.tolist()) <= pool
    # A row's draw does not depend on the others: without one that was not drawn the sample is the same.
    rest = np.setdiff1d(rows, small)
    assert drawn(np.setdiff1d(rows, rest[:1]), few, seed).tolist() == small.tolist()


def test_a_sample_has_the_size_asked_for_and_keeps_the_reasons(store):
    create_subset(store, "base", {"row": range(30), "score": np.arange(30) / 30, "concept": ["c"] * 30})
    some = sample_rows(store, "base", name="some", share=0.1)
    assert len(some) == 3
    assert some.read(["score"])["score"].to_pylist() == [row / 30 for row in some.rows.tolist()]
    assert set(some.read(["parent"])["parent"].to_pylist()) == {"base"}
    assert some.rows.tolist() == sample_rows(store, "base", name="again", count=3).rows.tolist()
    assert some.rows.tolist() != sample_rows(store, "base", name="other", count=3, seed=1).rows.tolist()
    for wrong in (
        {},
        {"count": 1, "share": 0.5},
        {"share": 0.0},
        {"share": 1.1},
        {"count": 31},
        {"count": 0},
    ):
        with pytest.raises(UsageError):
            sample_rows(store, "base", name="never", **wrong)
    assert "never" not in store.subsets()


def test_samples_are_even():
    """Every row comes about as often: 1,000 seeds of 5 of 20 rows."""
    rows = np.arange(20)
    found = np.bincount(np.concatenate([drawn(rows, 5, seed) for seed in range(1000)]), minlength=20)
    assert found.sum() == 5000
    assert abs(found - 250).max() < 70  # five standard deviations
