"""Concept prototypes in a store: written, read, told of by `info`, and damage found by `verify`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from embedstore.documents import PrototypesCard
from embedstore.errors import CorruptStoreError
from embedstore.store import open_store, store_info, verify_store
from embedstore.store.prototypes import encoded, read_prototypes, write_prototypes
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("prototypes") / "store", images=20, ids="a")


@pytest.fixture
def store(made, tmp_path):
    """A store with prototypes of three concepts, 8 wide."""
    found = open_store(shutil.copytree(made.path, tmp_path / "store"))
    write(found, "few", np.eye(3, 8, dtype=np.float32))
    return found


def write(store, name, vectors, **fields):
    data, sha = encoded(vectors)
    card = {
        "name": name,
        "made_of": "images",
        "concepts": ("circle", "square", "star"),
        "counts": (4, 5, 5),
        "width": vectors.shape[1],
        "card": store["vision"].card,
        "store_fingerprint": store.fingerprint,
        "vectors_sha256": sha,
    }
    write_prototypes(store, PrototypesCard.model_validate(card | fields), data)


def problems(store):
    report = verify_store(store.path)
    assert report.prototypes == 1
    return [(found.kind, found.where, found.problem) for found in report.findings]


def test_they_are_told_of_and_sound(store, run):
    card, vectors = read_prototypes(store, "few")
    np.testing.assert_array_equal(vectors, np.eye(3, 8))
    assert problems(store) == []
    assert store_info(store.path).prototypes == (card,)
    _, out, _ = run("info", store.path)
    assert "few: 3 concepts of 4 to 5 images each, 8 wide, by random-image-0" in " ".join(out.split())
    found = json.loads(run("info", store.path, "--json")[1])["prototypes"]
    assert [(each["name"], each["concepts"]) for each in found] == [("few", ["circle", "square", "star"])]
    assert json.loads(run("verify", store.path, "--json")[1])["prototypes"] == 1


def test_those_of_several_stores_are_told_of_together(store, tmp_path):
    other = write_random_store(tmp_path / "other", images=10, ids="b", seed=1)
    write(other, "few", np.eye(3, 8, dtype=np.float32), head_sha256="ab" * 32)
    found = store_info(f"{store.path}+{other.path}").prototypes
    assert [card.head_sha256 for card in found] == [None, "ab" * 32]
    assert verify_store(f"{store.path}+{other.path}").prototypes == 2


def flip(folder):
    data = bytearray((folder / "prototypes.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "prototypes.safetensors").write_bytes(data)


def lose(folder):
    (folder / "prototypes.safetensors").unlink()


def edit(**fields):
    def harm(folder):
        file = folder / "prototypes.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return harm


def lengthen(folder):
    data, sha = encoded(np.full((3, 8), 0.5, np.float32))
    (folder / "prototypes.safetensors").write_bytes(data)
    edit(vectors_sha256=sha)(folder)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "the vectors are not those of the card"),
        (lose, "cannot be read"),
        (edit(width=9), "the vectors do not fit the card"),
        (edit(name="many"), "the card is of 'many'"),
        (edit(counts=[1, 2]), "with a count each"),
        (edit(format_version=99), "newer"),
        (lengthen, "a vector has not the length 1"),
    ],
)
def test_damage_is_found(store, harm, words):
    harm(store.path / "prototypes" / "few")
    [(kind, where, problem)] = problems(store)
    assert (kind, where) == ("corrupt", "prototypes/few")
    assert words in problem
    assert problem.endswith("; make them again")
    if harm in (flip, lose):
        with pytest.raises(CorruptStoreError):
            read_prototypes(store, "few")


def test_what_a_stopped_writer_left_is_told_of_and_is_none(store):
    (store.path / "prototypes" / "begun").mkdir()
    [(kind, where, problem)] = problems(store)
    assert (kind, where) == ("incomplete", "prototypes/begun")
    assert "without a card" in problem
    assert verify_store(store.path).sound
    assert [card.name for card in store_info(store.path).prototypes] == ["few"]
