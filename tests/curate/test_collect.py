"""`embedstore curate prototypes` and `collect` on a small store, by the command and from Python."""

import json
import shutil
import sys
import tempfile

import numpy as np
import pytest

from embedstore.curate import (
    collect_rows,
    load_prototypes,
    prototypes_of_images,
    prototypes_of_texts,
)
from embedstore.curate.pool import unit_vectors
from embedstore.errors import CorruptStoreError, MismatchError, MissingExtraError, StoreError, UsageError
from embedstore.store import create_subset, open_store
from embedstore.testing.stores import CLASSES, write_random_store
from embedstore.testing.texts import WordEncoder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("collect") / "store"
    store = write_random_store(place, images=300, captions=2, image_width=16, text_width=16, seed=3)
    prototypes_of_images(store, "few", shots=5, split="train", seed=1)
    return store


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "store")
    return open_store(tmp_path / "store")


def test_a_prototype_is_the_mean_of_its_shots(store):
    many = prototypes_of_images(store, "many", shots=10**6)
    vectors = unit_vectors(store["vision"].read("pooled", 0, 300)).astype(float)
    labels = np.array(store.images(["label"])["label"].to_pylist())
    assert many.card.concepts == tuple(sorted(CLASSES))
    for k, label in enumerate(many.card.concepts):
        mean = vectors[labels == label].mean(axis=0)
        np.testing.assert_allclose(many.vectors[k], mean / np.linalg.norm(mean), atol=1e-6)
        assert many.card.counts[k] == (labels == label).sum()
    again = load_prototypes(store, "many")
    assert again.card == many.card
    np.testing.assert_array_equal(again.vectors, many.vectors)


def test_shots_are_drawn_from_the_seed_and_the_label_alone(store):
    one = prototypes_of_images(store, "one", shots=5, split="train", seed=1)
    np.testing.assert_array_equal(one.vectors, load_prototypes(store, "few").vectors)
    fewer = prototypes_of_images(
        store, "two", shots=5, split="train", seed=1, classes=[CLASSES[2], "unicorn"]
    )
    place = one.card.concepts.index(CLASSES[2])
    np.testing.assert_array_equal(fewer.vectors[0], one.vectors[place])
    assert (fewer.card.empty, fewer.card.concepts) == (("unicorn",), (CLASSES[2],))
    other = prototypes_of_images(store, "other", shots=5, split="train", seed=2)
    assert not np.array_equal(other.vectors, one.vectors)


def test_prototypes_from_class_names(store, monkeypatch):
    encoder = WordEncoder(store["words"].card)
    monkeypatch.setattr(
        "embedstore.curate.prototypes.encoder_for_card", lambda card, spec, *, device: encoder
    )
    found = prototypes_of_texts(
        store, "named", classes=["cat\tbig cat", "dog"], templates=["{} here", "one {}"]
    )
    assert encoder.seen == ["big cat here", "one big cat", "dog here", "one dog"]
    first = [unit_vectors(encoder.tokens(np.array([sum(map(ord, w))]))) for w in ("dog", "one")]
    mean = np.concatenate(first).mean(axis=0)
    np.testing.assert_allclose(found.vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert (found.card.made_of, found.card.counts) == ("texts", (2, 2))
    assert found.card.settings["templates"] == ("{} here", "one {}")


def test_prototypes_that_are_not_there_taken_or_damaged(store):
    with pytest.raises(StoreError, match="did you mean 'few'"):
        load_prototypes(store, "fwe")
    with pytest.raises(UsageError, match="--overwrite"):
        prototypes_of_images(store, "few", shots=5)
    prototypes_of_images(store, "few", shots=6, overwrite=True)
    assert load_prototypes(store, str(store.path / "prototypes" / "few")).card.settings["shots"] == 6
    file = store.path / "prototypes" / "few" / "prototypes.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CorruptStoreError, match="not those of the card"):
        load_prototypes(store, "few")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shots": 0}, "--shots"),
        ({"split": "night"}, "no split"),
        ({"classes": ["unicorn"]}, "no concept has an image"),
        ({"feature": "words"}, "feature of texts"),
    ],
)
def test_what_makes_no_prototypes(store, options, words):
    with pytest.raises(UsageError, match=words):
        prototypes_of_images(store, "bad", **options)


def test_collect_by_the_command(store, run):
    command = ["curate", "collect", store.path, "--prototypes", "few", "--name", "even", "--table", "images"]
    code, out, err = run(*command, "--keep", 60, "--per-concept", 20)
    assert code == 0, err
    assert "even: 80 images of 300 for 4 concepts, at most 20 each" in out
    lines = store.subset("even").read().to_pylist()
    assert [sorted(r["rank"] for r in lines if r["concept"] == c) for c in CLASSES] == [
        list(range(1, 21))
    ] * 4
    card = store.subset("even").card
    assert (card.verb, card.settings["keep"], card.counts["considered"]) == ("collect", 60, 300)
    assert [p.kind for p in card.parents] == ["prototypes", "feature"]
    code, out, _ = run(*command, "--keep", 60, "--per-concept", 50, "--overwrite", "--json")
    found = json.loads(out)
    commonality = [line["commonality"] for line in found["concepts"]]
    assert (code, commonality) == (0, sorted(commonality))
    assert found["short"] == sum(line["taken"] < 50 for line in found["concepts"])
    assert run("verify", store.path)[0] == 0
    code, _, err = run(*command)
    assert (code, "there is a subset 'even' already" in err) == (2, True)


def test_the_rows_are_the_same_for_every_block_and_thread_count(store):
    wanted = None
    for block, threads in ((1, 1), (7, 2), (64, 1), (1000, None)):
        made = collect_rows(
            store,
            "few",
            "same",
            table="texts",
            keep=40,
            per_concept=15,
            block=block,
            threads=threads,
            overwrite=True,
        )
        lines = made.subset.read().to_pylist()
        wanted = wanted or lines
        assert lines == wanted


def test_an_image_comes_by_one_of_its_captions(store):
    def images(once):
        made = collect_rows(store, "few", once, keep=300, per_concept=100, once=once)
        return store.texts(["image"])["image"].take(made.subset.rows).to_pylist()

    by_image, by_row = images("image"), images("row")
    assert len(set(by_image)) == len(by_image)
    assert len(set(by_row)) < len(by_row)


def test_caps_rows_and_splits_narrow_what_is_taken(store):
    made = collect_rows(
        store, "few", "capped", table="images", keep=300, per_concept=50, cap=10, cap_by="split"
    )
    splits = store.images(["split"])["split"].take(made.subset.rows).to_pylist()
    assert {s: splits.count(s) for s in set(splits)} == {"train": 10, "val": 10, "test": 10}
    create_subset(store, "some", {"row": list(range(0, 300, 3))})
    part = collect_rows(
        store, "few", "part", table="texts", rows="some", split="train", keep=300, per_concept=9
    )
    owners = store.texts(["image"])["image"].take(part.subset.rows).to_numpy()
    assert (owners % 3 == 0).all()
    assert (owners % 10 < 8).all()
    assert part.subset.card.parents[-1].name == "some"


@pytest.mark.parametrize("keep", [300, 50])
def test_rows_without_a_direction_are_left_out_and_counted(store, monkeypatch, keep):
    from embedstore.curate import pool

    real = pool.Embedded.vectors

    def some_bad(self, rows):
        found = real(self, rows)
        found[np.asarray(rows) % 5 == 0] = np.nan
        return found

    monkeypatch.setattr(pool.Embedded, "vectors", some_bad)
    made = collect_rows(store, "few", "good", table="images", keep=keep, per_concept=keep)
    assert not (made.subset.rows % 5 == 0).any()
    assert made.left_out == {"without a direction (zero, NaN or infinite)": 60}
    assert made.subset.card.counts["left_out"] == 60
    assert len(made.short) == (4 if keep == 300 else 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0}, "--keep"),
        ({"keep": 5, "per_concept": 6}, "at most --keep, 5"),
        ({"order": "best"}, "rare-first, common-first, random"),
        ({"once": "twice"}, "image, row"),
        ({"engine": "dask"}, "local, ray"),
        ({"cap": 3}, "--cap-by"),
        ({"cap": 3, "cap_by": "colour"}, "domain, label"),
        ({"table": "sounds"}, "images, texts"),
        ({"floor": 1.5}, "lower --floor"),
        ({"feature": "words", "table": "images"}, "feature of texts"),
        ({"block": 0}, "at least one row"),
    ],
)
def test_what_cannot_be_collected(store, options, words):
    with pytest.raises(UsageError, match=words):
        collect_rows(store, "few", "bad", **options)
    assert "bad" not in store.subsets()


def test_other_spaces_are_refused(store, tmp_path):
    wide = write_random_store(tmp_path / "wide", images=40, image_width=32, text_width=16, seed=8)
    with pytest.raises(MismatchError, match="widths 16 and 32"):
        collect_rows(wide, str(store.path / "prototypes" / "few"), "x", table="images")
    other = write_random_store(tmp_path / "other", images=40, image_width=16, text_width=16, seed=9)
    with pytest.raises(MismatchError, match="weights_sha256"):
        collect_rows(other, str(store.path / "prototypes" / "few"), "x", table="images")
    made = collect_rows(store, "few", "across", table="texts", keep=9, per_concept=3)
    assert "towers of one model" in made.warning


@pytest.mark.slow
def test_ray_gives_the_same_rows(store, monkeypatch):
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray")
    for name, value in (("RAY_TMPDIR", folder), ("HOME", folder)):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = {"table": "texts", "keep": 40, "per_concept": 15}
    try:
        there = collect_rows(store, "few", "there", engine="ray", ray_workers=2, **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    here = collect_rows(store, "few", "here", **options)
    assert there.subset.read().to_pylist() == here.subset.read().to_pylist()
    np.testing.assert_array_equal(there.commonality, here.commonality)


def test_without_ray_the_line_that_installs_it(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[ray\]'"):
        collect_rows(store, "few", "x", engine="ray", keep=9, per_concept=3)
