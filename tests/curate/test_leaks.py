"""`curate leaks` on planted worlds: train rows that are nearly in a test set."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.curate import find_leaks
from embedstore.curate.vectors import unit
from embedstore.errors import MismatchError, UsageError
from embedstore.store import create_subset
from embedstore.testing.vectors import write_vector_store

WIDTH = 32


def beside(vector, cosine, random):
    other = random.normal(size=len(vector))
    other -= vector * (other @ vector) / (vector @ vector)
    return cosine * vector / np.linalg.norm(vector) + (1 - cosine**2) ** 0.5 * other / np.linalg.norm(other)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """800 train rows: 50 leaks from the test split, 30 from another store, 20 that are only near (0.94)."""
    random = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("world")
    test, other = random.normal(size=(2, 200, WIDTH))
    leaks = [beside(test[k], c, random) for k, c in enumerate(np.linspace(0.96, 1, 50))]
    outer = [beside(other[k], 0.98, random) for k in range(30)]
    near = [beside(test[100 + k], 0.94, random) for k in range(20)]
    train = np.concatenate([leaks, outer, near, random.normal(size=(700, WIDTH))])
    vectors = np.concatenate([train, test]) * random.uniform(0.1, 10, size=(1000, 1))
    place = random.permutation(1000)
    where = np.argsort(place)
    store = write_vector_store(
        folder / "pool", vectors[place], splits=["train" if k < 800 else "test" for k in place]
    )
    theirs = write_vector_store(
        folder / "coco", other, ids="c", splits=["test" if k < 100 else "val" for k in range(200)]
    )
    own = {int(where[k]): int(where[800 + k]) for k in range(50)}
    return store, theirs, own, {int(where[50 + k]): k for k in range(30)}


@pytest.mark.parametrize("index", ["exact", "ivf", "hnsw"])
def test_every_planted_leak_is_found_and_nothing_else(world, index):
    store, theirs, own, outer = world
    found = find_leaks(store, "clean", [theirs.path], against=["test"], index=index, overwrite=True)
    dropped = found.subset.read_dropped().to_pylist()
    ids, other_ids = store.images(["id"])["id"].to_pylist(), theirs.images(["id"])["id"].to_pylist()
    twins = {line["row"]: (line["twin"], line["parent"], line["reason"]) for line in dropped}
    assert twins == {
        **{row: (ids[twin], "test", "leak") for row, twin in own.items()},
        **{row: (other_ids[twin], "coco", "leak") for row, twin in outer.items()},
    }
    assert len(found.subset) == 720
    assert [(each.name, each.rows, each.leaks, each.hit) for each in found.sets] == [
        ("test", 200, 50, 50),
        ("coco", 200, 30, 30),
    ]
    assert [each.recall is None for each in found.sets] == [index == "exact"] * 2
    assert all(line["score"] > 0.95 for line in dropped)
    scores = found.subset.read(["score"])["score"].to_numpy()
    assert scores.max() == pytest.approx(0.94, abs=1e-6)
    card = found.subset.card
    assert card.counts == {
        "considered": 800,
        "in a test set": 200,
        "leaks": 80,
        "leaks from test": 50,
        "leaks from coco": 30,
    }
    assert [parent.kind for parent in card.parents] == ["feature", "store"]
    assert card.settings["index"] == index
    assert len(card.settings["index_recall"]) == (0 if index == "exact" else 2)
    assert found.pairs["cosine"].to_pylist() == sorted(found.pairs["cosine"].to_pylist(), reverse=True)
    assert len(found.pairs) == 80


def test_narrowed_on_both_sides(world):
    store, theirs, own, outer = world
    found = find_leaks(store, "clean", [theirs.path], split="train", their_split="val", overwrite=True)
    assert len(found.pairs) == 0
    assert len(found.subset) == 800
    assert found.sets[0].name == "coco@val"
    some = sorted(own)[:10]
    single = next(row for row in found.subset.rows.tolist() if row not in own and row not in outer)
    create_subset(store, "some", {"row": [*some, single, *sorted(own.values())[:3]]}, overwrite=True)
    create_subset(theirs, "few", {"row": [0, 1]}, overwrite=True)
    found = find_leaks(
        store, "clean", [theirs.path], against=["test"], rows="some", their_rows="few", overwrite=True
    )
    assert found.subset.card.counts["considered"] == 11
    assert found.subset.rows.tolist() == [single]
    assert set(found.subset.read_dropped()["row"].to_pylist()) == set(some)
    assert found.sets[1].name == "coco@few"
    assert {parent.name for parent in found.subset.card.parents} == {"vectors", "some", "coco", "few"}


def test_a_subset_is_a_test_set_too(world):
    store, _, own, _ = world
    create_subset(store, "exam", {"row": list(own.values())[:7]}, overwrite=True)
    found = find_leaks(store, "clean", against=["exam"], split="train", overwrite=True)
    assert set(found.subset.read_dropped()["row"].to_pylist()) == set(list(own)[:7])
    assert "in a test set" in found.subset.card.counts
    assert found.subset.card.counts["in a test set"] == 0


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), cosine=st.sampled_from([0.3, 0.8, 0.95]), most=st.integers(1, 4))
def test_it_is_the_definition(tmp_path_factory, seed, cosine, most):
    random = np.random.default_rng(seed)
    ours, theirs = random.integers(-2, 3, size=(30, 3)), random.integers(-2, 3, size=(20, 3))
    folder = tmp_path_factory.mktemp("any")
    store = write_vector_store(folder / "a", ours)
    other = write_vector_store(folder / "b", theirs, ids="b")
    a, b = (unit(v.astype(float))[0].astype(float) for v in (ours, theirs))
    scores = np.round(a @ b.T, 6)
    scores[:, ~theirs.any(axis=1)] = -2
    good = ours.any(axis=1)
    if not theirs.any() or not (good & (scores.max(axis=1) <= cosine)).any():
        with pytest.raises(UsageError, match=r"no row of the test set|rows are leaks"):
            find_leaks(store, "clean", [other.path], cosine=cosine, neighbours=most)
        return
    found = find_leaks(store, "clean", [other.path], cosine=cosine, neighbours=most)
    assert found.subset.rows.tolist() == np.flatnonzero(good & (scores.max(axis=1) <= cosine)).tolist()
    listed = {(p["row"], p["other_row"]) for p in found.pairs.to_pylist()}
    wanted = set()
    for row in np.flatnonzero(good):
        order = np.lexsort((np.arange(20), -scores[row]))
        wanted |= {(int(row), int(k)) for k in order[:most] if scores[row, k] > cosine}
    assert len(listed) == len(wanted)
    assert listed <= {(int(r), int(k)) for r, k in zip(*np.nonzero(scores > cosine), strict=True)}


def test_the_command_lists_the_pairs(world, run, tmp_path):
    store, theirs, _, _ = world
    asked = (
        "curate",
        "leaks",
        store.path,
        theirs.path,
        "--against",
        "test",
        "--name",
        "clean",
        "--overwrite",
    )
    code, out, err = run(*asked, "--out", tmp_path / "pairs.parquet", "--index", "ivf")
    assert code == 0, err
    assert "clean: 720 images, 80 told of as left out" in out
    assert "800 rows compared, 80 with a cosine above 0.95" in out
    assert "coco: 30 leaks, near to 30 of its 200 rows" in out
    assert out.count("ivf index: recall 0.") == 2
    assert out.count("of the nearest of 512 sampled rows") == 2
    assert "200 rows are in a test set themselves and not compared" in out
    assert "and 70 more pairs" in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(pq.read_table(tmp_path / "pairs.parquet")) == 80
    code, out, _ = run(*asked, "--out", tmp_path / "pairs.csv", "--json")
    assert code == 0
    assert json.loads(out)["counts"]["leaks"] == 80
    with (tmp_path / "pairs.csv").open() as lines:
        first = next(csv.DictReader(lines))
    assert (first["set"], float(first["cosine"])) == ("test", pytest.approx(1.0))


def test_rows_without_a_direction_are_not_called_clean(tmp_path, run):
    store = write_vector_store(tmp_path / "a", np.array([[1, 0], [0, 0], [0, 1], [1, 1.0]]), unreadable=[3])
    other = write_vector_store(tmp_path / "b", np.array([[1, 0.01], [0, 0]]), ids="b")
    found = find_leaks(store, "clean", [other.path])
    assert found.subset.rows.tolist() == [2]
    assert found.subset.read_dropped()["reason"].to_pylist() == [
        "leak",
        "the vector is zero",
        "could not be read",
    ]
    assert found.sets[0].rows == 1
    code, _, err = run("curate", "leaks", store.path, other.path, "--name", "clean", "--overwrite")
    assert code == 0
    assert "1 rows left out: the vector is zero" in err


def test_other_encoders_are_refused(tmp_path):
    store = write_vector_store(tmp_path / "a", np.eye(3))
    other = write_vector_store(tmp_path / "b", np.eye(3), ids="b", encoder="another")
    with pytest.raises(MismatchError, match="weights_sha256"):
        find_leaks(store, "clean", [other.path])
    half = write_vector_store(tmp_path / "c", np.eye(3), ids="c", policy="float16")
    with pytest.raises(UsageError, match="3 of 3 rows are leaks"):
        find_leaks(store, "clean", [half.path])


def test_what_cannot_be_meant_is_refused(world, tmp_path, run):
    store, theirs, _, _ = world
    create_subset(store, "val", {"row": [1]}, overwrite=True)
    create_subset(store, "train", {"row": [1]}, overwrite=True)
    zero = write_vector_store(tmp_path / "zero", np.zeros((2, WIDTH)), ids="z")
    for options, words in (
        ({}, "no test set"),
        ({"against": ["dev"]}, "no subset and no split 'dev'"),
        ({"against": ["train"]}, "is a subset and a split"),
        ({"others": [store.path]}, "not its own test set"),
        ({"others": [theirs.path, theirs.path]}, "one name"),
        ({"others": [zero.path]}, "no row of the test set has an embedding"),
        ({"against": ["test"], "cosine": 1.0}, "no such cosine"),
        ({"against": ["test"], "neighbours": 0}, "at least one neighbour"),
        ({"against": ["test"], "split": "test"}, "every row is in a test set"),
        ({"against": ["test"], "index": "fast"}, "exact, ivf, hnsw, pq"),
        ({"against": ["test"], "index": "pq"}, "256 or more"),
    ):
        with pytest.raises(UsageError, match=words):
            find_leaks(store, "refused", **options)
    assert "refused" not in store.subsets()
    code, _, err = run(
        "curate", "leaks", store.path, theirs.path, "--name", "x", "--out", tmp_path / "pairs.txt"
    )
    assert code != 0
    assert ".parquet or .csv" in err
