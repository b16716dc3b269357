"""Mixes: exact shares and sizes, drawn from each part, nothing twice."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.curate import mix_rows, sample_rows
from embedstore.errors import UsageError
from embedstore.store import create_subset, open_store
from embedstore.store.mix import share_counts
from embedstore.testing.stores import write_random_store


@given(
    total=st.integers(0, 10**9),
    shares=st.lists(st.fractions(Fraction(1, 1000), 1000), min_size=1, max_size=6),
)
def test_counts_add_up_and_are_rounded_down_or_up(total, shares):
    counts = share_counts(total, shares)
    assert sum(counts) == total
    assert all(abs(c - total * s / sum(shares)) < 1 for c, s in zip(counts, shares, strict=True))


@given(
    cut=st.integers(9, 31), shares=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99)
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mix_has_its_shares(store, cut, shares, seed):
    create_subset(store, "a", {"row": range(cut), "score": np.arange(cut) / 40}, overwrite=True)
    create_subset(store, "b", {"row": range(cut, 40), "concept": ["c"] * (40 - cut)}, overwrite=True)
    most = mix_rows(store, {"a": shares[0], "b": shares[1]}, name="most", seed=seed, overwrite=True)
    lines = most.read().to_pylist()
    of_a = [line for line in lines if line["row"] < cut]
    assert all((line["parent"], line["score"]) == ("a", line["row"] / 40) for line in of_a)
    assert all((line["parent"], line["concept"]) == ("b", "c") for line in lines[len(of_a) :])
    whole = sum(shares)
    assert len(lines) == int(min(cut * Fraction(whole, shares[0]), (40 - cut) * Fraction(whole, shares[1])))
    assert abs(len(of_a) - Fraction(len(lines) * shares[0], whole)) < 1
    with pytest.raises(UsageError, match="too few rows"):
        mix_rows(store, {"a": shares[0], "b": shares[1]}, name="x", size=len(lines) + whole)
    turned = mix_rows(store, {"b": shares[1], "a": shares[0]}, name="turned", seed=seed, overwrite=True)
    assert turned.rows.tolist() == most.rows.tolist()
    drawn = sample_rows(store, "a", name="drawn", count=len(of_a), seed=seed, overwrite=True)
    assert drawn.rows.tolist() == [line["row"] for line in of_a]


def test_stores_of_a_join_are_parts(store, tmp_path):
    write_random_store(tmp_path / "general", images=20, captions=1, image_width=12, ids="b", card_seed=0)
    both = open_store(f"{store.path}+{tmp_path / 'general'}")
    found = mix_rows(both, {"store": 10, "general": 3}, size=26, seed=1, name="dalip")
    assert (found.rows < 40).sum() == 20
    assert found.card.counts == {"of_1": 6, "of_2": 20}
    assert found.card.settings["of"] == ("general", "store")
    assert [parent.kind for parent in found.card.parents] == ["store", "store"]
    assert both.subset("dalip").rows.tolist() == found.rows.tolist()


def test_bad_mixes_are_refused(store):
    create_subset(store, "a", {"row": range(10)})
    create_subset(store, "b", {"row": range(8, 20)})
    create_subset(store, "c", {"row": range(20, 40)})
    create_subset(store, "t", {"row": range(5)}, table="texts")
    with pytest.raises(UsageError, match="2 rows are in two parts") as bad:
        mix_rows(store, {"a": 1, "b": 1}, name="x")
    assert "curate subtract" in str(bad.value)
    for wrong in ({"a": 1}, {"a": 1, "c": 0}, {"a": 1, "c": -1}, {"a": float("nan"), "c": 1}):
        with pytest.raises(UsageError, match="not the parts"):
            mix_rows(store, wrong, name="x")
    with pytest.raises(UsageError, match="images and of texts"):
        mix_rows(store, {"a": 1, "t": 1}, name="x")
    with pytest.raises(UsageError, match="nothing would be taken"):
        mix_rows(store, {"a": 1, "c": 100}, name="x", size=5)
    with pytest.raises(UsageError, match="nothing is left"):
        mix_rows(store, {"a": 1, "c": 1}, name="x", rows="b")
    assert "x" not in store.subsets()


def test_the_command(store, run):
    create_subset(store, "domain", {"row": range(30)})
    create_subset(store, "general", {"row": range(30, 40)})
    place = ("curate", "mix", store.path, "--mix", "domain=10,general=3", "--name", "both")
    code, out, err = run(*place, "--size", 26, "--seed", 2)
    assert (code, err) == (0, "")
    assert out == "both: 26 images\n20 of domain, 76.92%\n6 of general, 23.08%\n"
    code, out, _ = run(*place, "--overwrite", "--json")
    assert json.loads(out)["kept"] == 39
    assert run(*place, "--size", 40, "--overwrite")[0] == 2
