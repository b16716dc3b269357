"""Messages name the command that made the feature they are about."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedstore.encode import recode_feature
from embedstore.errors import CorruptStoreError, DiskFullError, IncompleteError
from embedstore.interchange import ImportOptions, import_feature
from embedstore.store import FeatureWriter, compact_store, open_store, space, verify_store
from embedstore.store.advice import made_by
from embedstore.testing.stores import write_random_store


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Features by encode, recode and import, and a compacted copy in which one of them was recoded."""
    root = tmp_path_factory.mktemp("commands")
    store = write_random_store(root / "store", images=40, captions=1, shard_rows=16)
    recode_feature(store.path, "vision", policy="merge-4+int8", name="small")
    np.save(root / "x.npy", np.ones((40, 3), np.float32))
    (root / "x.ids.txt").write_text("".join(f"s{i:06d}\n" for i in range(40)))
    import_feature(
        f"npy:{root / 'x.npy'}",
        store.path,
        name="other",
        options=ImportOptions(modality="image", model="unknown", ids=root / "x.ids.txt"),
    )
    compact_store(store.path, root / "compact", drop=["s000001"])
    recode_feature(root / "compact", "vision", policy="int8", name="eight")
    return root


CASES = [
    ("store", "vision", "encode", "run the same embedstore encode command again"),
    ("store", "small", "recode", "embedstore recode STORE vision --policy merge-4+int8 --as small"),
    ("store", "other", "import", "run the same embedstore import command again"),
    ("compact", "vision", "compact", "remove this store and run the same embedstore compact command again"),
    ("compact", "small", "compact", "remove this store and run the same embedstore compact command again"),
    ("compact", "other", "compact", "remove this store and run the same embedstore compact command again"),
    ("compact", "eight", "recode", "embedstore recode STORE vision --policy int8 --as eight"),
]


@pytest.mark.parametrize(("store", "feature", "verb", "words"), CASES)
def test_the_command_that_made_a_feature_is_named(made, tmp_path, store, feature, verb, words):
    place = tmp_path / "copy"
    shutil.copytree(made / store, place)
    header = open_store(place).header(feature)
    assert made_by(place, header) == verb
    (place / "features" / feature / "pooled/c/0/0").unlink()
    with pytest.raises(CorruptStoreError, match="run the command that made the feature again"):
        open_store(place)[feature].read("pooled", 0, 1)
    report = verify_store(place, repair=True)
    assert report.sound
    (said,) = report.repaired
    assert said.startswith(f"{feature}: units 0 are taken out, ")
    assert words in said
    (found,) = verify_store(place).findings
    assert words in found.problem
    with pytest.raises(IncompleteError) as unfinished:
        open_store(place)[feature]
    assert words in str(unfinished.value)
    with pytest.raises(IncompleteError) as unfinished:
        FeatureWriter.open(place, header).finish()
    assert words in str(unfinished.value)


@pytest.mark.parametrize(
    ("store", "feature", "words"),
    [
        ("store", "vision", "remove features/vision and encode with --policy int8"),
        ("store", "small", "no policy would make it fit"),
        ("store", "other", "no policy would make it fit"),
        ("compact", "vision", "what is finished stays"),
        ("compact", "eight", "no policy would make it fit"),
    ],
)
def test_a_full_disk_offers_what_that_command_can_do(made, monkeypatch, store, feature, words):
    header = open_store(made / store).header(feature)
    monkeypatch.setattr(space, "free_nbytes", lambda place: 13_500)
    bad = space.disk_full(made / store, header, missing=range(header.units), tokens_per_row=0)
    assert isinstance(bad, DiskFullError)
    assert words in bad.todo
    assert (store == "compact" and feature != "eight") == ("policy" not in bad.todo)


def test_compacts_into_one_place_at_once_all_succeed(tmp_path):
    store = write_random_store(tmp_path / "store", images=60, captions=2, shard_rows=16)
    compact_store(store.path, tmp_path / "alone", drop=["s000003"])
    wanted = {p.relative_to(tmp_path / "alone"): p.read_bytes() for p in files(tmp_path / "alone")}
    for _ in range(8):
        with ThreadPoolExecutor(3) as pool:
            made = [
                pool.submit(compact_store, store.path, tmp_path / "new", drop=["s000003"]) for _ in range(3)
            ]
        assert {m.result().images for m in made} == {59}
        assert {p.relative_to(tmp_path / "new"): p.read_bytes() for p in files(tmp_path / "new")} == wanted
        assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "new", "store"]
        shutil.rmtree(tmp_path / "new")


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]
