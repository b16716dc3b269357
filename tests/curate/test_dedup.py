"""`curate dedup` on planted worlds: what is found, what is kept, what is told."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.curate import dedup_store
from embedstore.curate.vectors import unit
from embedstore.errors import StoreError, UsageError
from embedstore.store import create_subset, open_store
from embedstore.testing.stores import write_random_store
from embedstore.testing.vectors import write_vector_store

WIDTH = 32


def beside(vector, cosine, random):
    """A vector of another length with exactly this cosine."""
    other = random.normal(size=len(vector))
    other -= vector * (other @ vector) / (vector @ vector)
    direction = cosine * vector / np.linalg.norm(vector)
    direction = direction + (1 - cosine**2) ** 0.5 * other / np.linalg.norm(other)
    return direction * random.uniform(0.1, 9)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """900 single rows, 60 with a near copy (cosine 0.96 to 1), 40 with one that is not near enough (0.94)."""
    random = np.random.default_rng(0)
    base = random.normal(size=(900, WIDTH))
    near = [beside(base[k], c, random) for k, c in enumerate(np.linspace(0.96, 1.0, 60))]
    far = [beside(base[100 + k], 0.94, random) for k in range(40)]
    place = random.permutation(1000)
    vectors = np.concatenate([base, near, far])[place]
    where = np.argsort(place)
    planted = {tuple(sorted((int(where[k]), int(where[900 + k])))) for k in range(60)}
    store = write_vector_store(
        tmp_path_factory.mktemp("world") / "store",
        vectors,
        nbytes=random.integers(1, 400, size=1000).tolist(),
        splits=["train" if row % 4 else "test" for row in range(1000)],
    )
    return store, planted, vectors


@pytest.mark.parametrize("method", ["exhaustive", "semdedup", "auto"])
def test_every_planted_duplicate_is_found_and_nothing_else(world, method):
    store, planted, vectors = world
    subset = dedup_store(store, "clean", method=method, overwrite=True)
    dropped = subset.read_dropped().to_pylist()
    found = {tuple(sorted((line["row"], store.rows_of([line["twin"]])[0]))) for line in dropped}
    assert found == planted
    assert (len(dropped), len(subset)) == (60, 940)
    kept = set(subset.rows.tolist())
    every = unit(vectors)[0].astype(float)
    for line in dropped:
        twin = int(store.rows_of([line["twin"]])[0])
        assert twin in kept
        assert twin < line["row"]
        assert line["score"] > 0.95
        assert line["score"] == pytest.approx(every[twin] @ every[line["row"]], abs=1e-6)
        assert line["reason"] == "near duplicate"
    card = subset.card
    assert card.counts["considered"] == 1000
    assert card.counts["duplicates"] == 60
    assert (card.verb, card.settings["eps"]) == ("dedup", 0.05)
    assert card.settings["method"] == ("semdedup" if method == "semdedup" else "exhaustive")
    assert card.parents[0].sha256 == store["vectors"].manifest.fingerprint
    if method == "semdedup":
        assert card.settings["clusters"] == 32
        assert card.settings["pair_recall"] == 1.0
        assert card.counts["sampled_pairs"] > 0


def test_the_larger_file_is_kept(world):
    store, planted, _ = world
    sizes = store.images(["nbytes"])["nbytes"].to_numpy()
    subset = dedup_store(store, "large", prefer="size", overwrite=True)
    wanted = {b if sizes[a] >= sizes[b] else a for a, b in planted}
    assert set(subset.read_dropped()["row"].to_pylist()) == wanted


def test_the_higher_score_is_kept_and_unknown_scores_come_last(world):
    store, planted, _ = world
    pairs = sorted(planted)
    lines = {"row": [b for _, b in pairs[:30]], "score": list(np.linspace(-1, 1, 30))}
    create_subset(store, "liked", lines, overwrite=True)
    subset = dedup_store(store, "scored", prefer="score", scores="liked", overwrite=True)
    wanted = {a for a, _ in pairs[:30]} | {b for _, b in pairs[30:]}
    assert set(subset.read_dropped()["row"].to_pylist()) == wanted
    assert {parent.name for parent in subset.card.parents} == {"vectors", "liked"}
    among = dedup_store(store, "among", prefer="score", rows="liked", overwrite=True)
    assert (len(among), among.card.settings["scores"]) == (30, "liked")


def test_a_split_and_the_reading_of_large_pools(world):
    store, planted, _ = world
    subset = dedup_store(store, "train", split="train", memory_mb=0, overwrite=True)
    both = {pair for pair in planted if pair[0] % 4 and pair[1] % 4}
    assert set(subset.read_dropped()["row"].to_pylist()) == {b for _, b in both}
    assert subset.card.counts["considered"] == 750
    plain = dedup_store(store, "plain", split="train", overwrite=True)
    assert plain.read().equals(subset.read())


@settings(max_examples=25)
@given(
    data=st.data(),
    method=st.sampled_from(["exhaustive", "semdedup"]),
    prefer=st.sampled_from(["first", "size"]),
)
def test_whatever_is_dropped_has_a_kept_partner(tmp_path_factory, data, method, prefer):
    values = data.draw(
        st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=2, max_size=40), label="vectors"
    )
    eps = data.draw(st.sampled_from([0.01, 0.1, 0.5]))
    store = write_vector_store(
        tmp_path_factory.mktemp("any") / "store", np.array(values, float), nbytes=[1, None] * 20
    )
    clusters = {"clusters": 1} if sum(map(any, values)) < 9 else {}
    if not any(map(any, values)):
        return
    subset = dedup_store(store, "clean", method=method, eps=eps, prefer=prefer, probes=99, **clusters)
    vectors = unit(np.array(values, float))[0].astype(float)
    kept = subset.rows
    for line in subset.read_dropped().to_pylist():
        if line["twin"] is None:
            assert line["reason"] == "the vector is zero"
            assert not any(values[line["row"]])
        else:
            twin = int(store.rows_of([line["twin"]])[0])
            assert twin in kept
            assert vectors[twin] @ vectors[line["row"]] > 1 - eps - 1e-6
    near = vectors[kept] @ vectors[kept].T - 2 * np.eye(len(kept))
    assert near.max(initial=-1) <= 1 - eps + 1e-6, "two duplicates are kept"
    assert len(kept) + subset.dropped_count == len(values)


def test_unnormalised_zero_and_unreadable_rows(tmp_path):
    vectors = np.array([[1, 0], [1e-30, 0], [0, 0], [3e30, 1e25], [0, 5], [1, 1]])
    store = write_vector_store(tmp_path / "s", vectors, unreadable=[5])
    subset = dedup_store(store, "clean")
    assert subset.rows.tolist() == [0, 4]
    told = subset.read_dropped(["row", "twin", "reason"]).to_pylist()
    assert told == [
        {"row": 1, "twin": "s000000", "reason": "near duplicate"},
        {"row": 2, "twin": None, "reason": "the vector is zero"},
        {"row": 3, "twin": "s000000", "reason": "near duplicate"},
        {"row": 5, "twin": None, "reason": "could not be read"},
    ]
    assert subset.card.counts == {
        "considered": 6,
        "duplicates": 2,
        "could not be read": 1,
        "the vector is zero": 1,
    }
    nothing = write_vector_store(tmp_path / "zero", np.zeros((3, 2)))
    for method in ("exhaustive", "semdedup"):
        with pytest.raises(UsageError, match="none of 3 rows has an embedding"):
            dedup_store(nothing, "clean", method=method)


def test_exact_texts(tmp_path, run):
    words = ["a dog", "a cat", "a dog", "A dog", "a cat", "a dog "]
    store = write_vector_store(tmp_path / "s", np.eye(6), table="texts", texts=words)
    code, out, _ = run(
        "curate", "dedup", store.path, "--name", "once", "--method", "exact", "--table", "texts"
    )
    assert code == 0
    assert "once: 4 texts, 2 told of as left out" in out
    assert "6 rows compared, 2 duplicates: equal text\nmethod exact, kept by first" in out
    subset = open_store(store.path).subset("once")
    assert subset.rows.tolist() == [0, 1, 3, 5]
    assert subset.read_dropped(["row", "twin", "score", "reason"]).to_pylist() == [
        {"row": 2, "twin": "s000000", "score": 1.0, "reason": "same text"},
        {"row": 4, "twin": "s000001", "score": 1.0, "reason": "same text"},
    ]
    by_length = dedup_store(store, "long", feature="vectors", eps=0.5, prefer="size")
    assert len(by_length) == 6


def test_exact_pictures_by_thumbnail_and_size(tmp_path):
    jpegs = [b"one", b"two", b"one", b"one", b"two"]
    store = write_vector_store(
        tmp_path / "s", np.eye(5), thumbnails=jpegs, nbytes=[10, 20, 10, 11, None], shard_rows=2
    )
    subset = dedup_store(store, "once", method="exact")
    assert subset.rows.tolist() == [0, 1, 3, 4]
    assert subset.read_dropped(["twin", "reason"]).to_pylist() == [
        {"twin": "s000000", "reason": "same thumbnail"}
    ]
    assert subset.card.settings["feature"] is None


def test_exact_pictures_by_embedding_where_there_is_no_thumbnail(tmp_path):
    vectors = np.array([[1, 2], [2, 4], [1, 2], [1, 2.0], [0, 1]])
    store = write_vector_store(tmp_path / "s", vectors, nbytes=[7, 7, 7, 8, 7], unreadable=[4])
    subset = dedup_store(store, "once", method="exact")
    assert subset.rows.tolist() == [0, 1, 3]
    assert subset.card.settings["compared"] == "embedding"
    assert subset.card.settings["feature"] == "vectors"
    assert subset.read_dropped(["row", "reason"]).to_pylist() == [
        {"row": 2, "reason": "same embedding"},
        {"row": 4, "reason": "could not be read"},
    ]


def test_the_command_tells_what_it_did(world, run):
    store, _, _ = world
    asked = ("curate", "dedup", store.path, "--name", "told", "--method", "semdedup", "--overwrite")
    code, out, err = run(*asked, "--clusters", 20, "--probes", 2)
    assert code == 0, err
    assert "told: 940 images, 60 told of as left out" in out
    assert "1000 rows compared, 60 duplicates: cosine above 0.95" in out
    assert "method semdedup, kept by first, 2 of 20 clusters looked at for each row" in out
    assert "recall 1.0000 of the" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = run(*asked, "--json")
    assert code == 0
    assert json.loads(out)["counts"]["duplicates"] == 60


def test_fewer_rows_than_a_sample_are_told_as_they_are(store, run):
    asked = ("curate", "dedup", store.path, "--name", "few", "--method", "semdedup", "--feature", "vision")
    code, out, err = run(*asked)
    assert code == 0, err
    assert "recall 1.0000 of the 8 duplicate pairs of 40 sampled rows" in out
    code, out, _ = run(*asked, "--eps", 0.001, "--overwrite")
    assert "no duplicate among 40 sampled rows, so no recall is known" in out


def test_left_out_rows_are_warned_of(tmp_path, run):
    store = write_vector_store(tmp_path / "s", np.array([[1, 0], [0, 0], [0, 1.0]]))
    code, _, err = run("curate", "dedup", store.path, "--name", "clean")
    assert code == 0
    assert "1 rows left out: the vector is zero" in err


def test_two_stores_as_one(tmp_path):
    a = write_vector_store(tmp_path / "a", np.eye(4), ids="a")
    write_vector_store(tmp_path / "b", np.eye(4)[[3, 3]] * 2, ids="b")
    subset = dedup_store(f"{a.path}+{tmp_path / 'b'}", "clean")
    assert subset.rows.tolist() == [0, 1, 2, 3]
    assert subset.read_dropped()["twin"].to_pylist() == ["a000003", "a000003"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "for equal content: --method exact"),
        ({"eps": 1.5}, "above 0, below 1"),
        ({"eps": float("nan")}, "above 0, below 1"),
        ({"method": "fast"}, "auto, exhaustive, semdedup, exact"),
        ({"prefer": "best"}, "first, size, score"),
        ({"prefer": "score"}, "which scores are meant"),
        ({"prefer": "score", "scores": "none"}, "no subset 'none'"),
        ({"scores": "none"}, "--prefer score alone"),
        ({"probes": 0}, "at least one"),
        ({"method": "semdedup", "clusters": 5000}, "1 to 1000"),
        ({"split": "val"}, "no split 'val'"),
        ({"table": "texts"}, "no texts to choose from"),
        ({"table": "masks"}, "images, texts"),
        ({"feature": "vectors", "table": "texts"}, "is a feature of images"),
    ],
)
def test_what_cannot_be_meant_is_refused(world, options, words):
    with pytest.raises(UsageError, match=words):
        dedup_store(world[0], "refused", **options)
    assert "refused" not in world[0].subsets()


def test_a_taken_name_is_refused_before_any_work(world, monkeypatch):
    store = world[0]
    create_subset(store, "taken", {"row": [0]}, overwrite=True)
    monkeypatch.setattr("embedstore.curate.dedup.pooled_feature", None)
    with pytest.raises(UsageError, match="a subset 'taken' already"):
        dedup_store(store, "taken")
    with pytest.raises(StoreError, match="not/a name"):
        dedup_store(store, "not/a name")


def test_several_features_must_be_chosen_from(tmp_path):
    store = write_random_store(tmp_path / "s", images=20)
    assert len(dedup_store(store, "images")) > 0
    assert dedup_store(store, "texts", feature="words").table == "texts"
    with pytest.raises(UsageError, match="'images' has no scores of texts"):
        dedup_store(store, "x", feature="words", prefer="score", scores="images")
