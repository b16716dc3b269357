"""Subsets to files and back, and what is shown of them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.curate import balance_rows, combine_subsets, describe_subset, list_subset, subset_of_ids
from embedstore.errors import StoreError, UsageError
from embedstore.recipes.subset_page import subset_page
from embedstore.store import create_store, create_subset, open_store
from embedstore.testing.stores import random_plan, random_tables

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def chosen(store):
    columns = {
        "row": [3, 7, 20],
        "concept": ["cat", None, EVIL],
        "score": [0.5, 0.25, None],
        "rank": [1, 2, 1],
    }
    dropped = {"row": [9, 11], "twin": ["a000003", None], "reason": ["near duplicate", "too small"]}
    create_subset(store, "some", columns, dropped=dropped, verb="collect", settings={"per_concept": 2})
    return store


def test_a_parquet_list_comes_back_as_the_same_subset(chosen, tmp_path):
    found = list_subset(chosen, "some", tmp_path / "some.parquet")
    assert found.to_dict() == {
        "file": "some.parquet",
        "format": "parquet",
        "lines": 3,
        "left_out": 0,
        "why": None,
    }
    table = pq.read_table(tmp_path / "some.parquet")
    assert table["id"].to_pylist() == ["a000003", "a000007", "a000020"]
    images, texts = chosen.images(), chosen.texts()
    assert table["label"].to_pylist() == images["label"].take([3, 7, 20]).to_pylist()
    owners = texts["image"].to_pylist()
    assert table["caption"].to_pylist() == [texts["text"][owners.index(row)].as_py() for row in (3, 7, 20)]
    subset_of_ids(chosen, tmp_path / "some.parquet", name="again")
    for part in ("id", "concept", "score", "rank"):
        assert chosen.subset("again").read([part]) == chosen.subset("some").read([part])
    assert chosen.subset("again").card.settings["file"] == "some.parquet"


def test_texts_are_listed_with_their_images(store, tmp_path):
    create_subset(store, "words", {"row": [0, 1, 4]}, table="texts")
    list_subset(store, "words", tmp_path / "w.parquet")
    table = pq.read_table(tmp_path / "w.parquet")
    texts, ids = store.texts(), store.images(["id"])["id"].to_pylist()
    assert table["text"].to_pylist() == texts["text"].take([0, 1, 4]).to_pylist()
    assert table["image_id"].to_pylist() == [ids[texts["image"][row].as_py()] for row in (0, 1, 4)]
    keys = list_subset(store, "words", tmp_path / "w.txt", format="webdataset")
    assert keys.lines == len({texts["image"][row].as_py() for row in (0, 1, 4)})
    assert (tmp_path / "w.txt").read_text().splitlines() == list(dict.fromkeys(table["image_id"].to_pylist()))


def test_urls_come_from_ids_and_the_others_are_counted(tmp_path):
    plan = random_plan(images=4, captions=1)
    images, texts = random_tables(images=4, captions=1, classes=np.zeros(4, np.int64))
    ids = ["http://a.example/1.jpg", "https://a.example/2.jpg", "no-url", "http:// bad"]
    images = images.set_column(0, images.schema.field("id"), pa.array(ids))
    texts = texts.set_column(0, texts.schema.field("id"), pa.array([f"{name}#0" for name in ids]))
    create_store(tmp_path / "pool", plan, images=[images], texts=[texts])
    pool = open_store(tmp_path / "pool")
    create_subset(pool, "all", {"row": range(4)})
    found = list_subset(pool, "all", tmp_path / "urls.parquet", format="img2dataset")
    assert (found.lines, found.left_out) == (2, 2)
    assert pq.read_table(tmp_path / "urls.parquet").to_pylist() == [
        {"url": ids[k], "caption": texts["text"][k].as_py(), "id": ids[k]} for k in (0, 1)
    ]
    create_subset(pool, "words", {"row": [1]}, table="texts")
    list_subset(pool, "words", tmp_path / "texts.parquet", format="img2dataset")
    assert pq.read_table(tmp_path / "texts.parquet")["url"].to_pylist() == [ids[1]]
    create_store(
        tmp_path / "words",
        plan.model_copy(update={"images": 0, "splits": {}}),
        images=[images.slice(0, 0)],
        texts=[texts.set_column(1, texts.schema.field("image"), pa.nulls(4, pa.int64()))],
    )
    words = open_store(tmp_path / "words")
    create_subset(words, "all", {"row": range(4)}, table="texts")
    assert list_subset(words, "all", tmp_path / "w.parquet", format="img2dataset").lines == 2
    assert pq.read_table(tmp_path / "w.parquet")["url"].to_pylist() == ids[:2]
    with pytest.raises(UsageError, match="has an image"):
        list_subset(words, "all", tmp_path / "w.txt", format="webdataset")
    with pytest.raises(UsageError, match="--table texts"):
        balance_rows(words, name="x", entries=["a"])
    create_subset(pool, "none", {"row": [2, 3]})
    with pytest.raises(UsageError, match="no row of the subset has a URL"):
        list_subset(pool, "none", tmp_path / "n.parquet", format="img2dataset")
    assert not (tmp_path / "n.parquet").exists()


def test_lists_are_not_written_over_and_bad_ids_are_refused(chosen, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        list_subset(chosen, "some", tmp_path / "there")
    list_subset(chosen, "some", tmp_path / "there", format="webdataset", overwrite=True)
    assert (tmp_path / "there").read_text() == "a000003\na000007\na000020\n"
    with pytest.raises(UsageError, match="unknown format"):
        list_subset(chosen, "some", tmp_path / "x", format="csv")
    with pytest.raises(UsageError, match="cannot write"):
        list_subset(chosen, "some", tmp_path / "no" / "x")
    with pytest.raises(StoreError, match="did you mean"):
        list_subset(chosen, "som", tmp_path / "x")
    (tmp_path / "ids.txt").write_text("a000003\nzzz\n")
    with pytest.raises(UsageError, match="not in the store"):
        subset_of_ids(chosen, tmp_path / "ids.txt", name="x")
    with pytest.raises(UsageError, match="no such file"):
        subset_of_ids(chosen, tmp_path / "nothing.txt", name="x")


def test_a_csv_of_ids_brings_its_columns(store, tmp_path):
    (tmp_path / "ids.csv").write_text(
        "id,score,concept,other\na000005,0.5,NA,x\na000001,,cat,y\na000001,,cat,y\n"
    )
    found = subset_of_ids(store, tmp_path / "ids.csv", name="csv")
    assert found.read(["id", "score", "concept"]).to_pylist() == [
        {"id": "a000001", "score": None, "concept": "cat"},
        {"id": "a000005", "score": 0.5, "concept": "NA"},
    ]
    (tmp_path / "bad.csv").write_text("id,score\na000005,high\n")
    with pytest.raises(UsageError, match="cannot be read"):
        subset_of_ids(store, tmp_path / "bad.csv", name="bad")


def test_what_is_shown_is_counted(chosen):
    found = describe_subset(chosen, "some")
    assert found.concepts == {EVIL: 1, "cat": 1}
    assert found.scores[0] == 0.25
    assert found.scores[3] == pytest.approx(0.375)
    assert found.dropped_reasons == {"near duplicate": 1, "too small": 1}
    assert json.loads(json.dumps(found.to_dict()))["cards"][0]["verb"] == "collect"


def test_the_page_holds_rows_reasons_and_twins_escaped(chosen):
    page = subset_page(chosen, "some")
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    for word in (
        "a000003",
        "a000007",
        "a000020",
        "near duplicate",
        "stands for it",
        "collect",
        "per concept",
    ):
        assert word in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "3 of 3" in page
    few = subset_page(chosen, "some", shown=2)
    assert "2 of 3" in few
    create_subset(chosen, "words", {"row": [0, 5]}, table="texts")
    assert chosen.texts(["text"])["text"][5].as_py() in subset_page(chosen, "words")


def test_the_commands(chosen, run, tmp_path):
    place = chosen.path
    create_subset(chosen, "more", {"row": [7, 8]})
    code, out, err = run("curate", "union", place, "some", "more", "--name", "all")
    assert (code, err) == (0, "")
    assert out == "all: 4 images\nunion of some 3, more 2\n"
    assert run("curate", "intersect", place, "some", "more", "--name", "both")[1].startswith("both: 1 images")
    code, out, _ = run("curate", "subtract", place, "some", "more", "--name", "rest", "--json")
    assert json.loads(out)["dropped"] == 1
    assert run("curate", "sample", place, "all", "--count", 2, "--name", "two")[0] == 0
    code, _, err = run("curate", "sample", place, "all", "--count", 2, "--name", "two")
    assert (code, "already" in err) == (2, True)
    assert run("curate", "sample", place, "all", "--count", 1, "--name", "two", "--overwrite")[0] == 0
    (tmp_path / "ids.txt").write_text("a000001\n")
    assert run("curate", "ids", place, tmp_path / "ids.txt", "--name", "one")[1].startswith("one: 1 images")
    code, out, _ = run("curate", "show", place, "all", "--html", tmp_path / "page.html")
    assert code == 0
    assert "of: some, more" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert "made by union" in out
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(run("curate", "show", place, "all", "--json")[1])["rows"] == 4
    code, out, _ = run("curate", "list", place, "all", "--to", tmp_path / "a.txt", "--format", "webdataset")
    assert (code, "4 lines" in out) == (0, True)
    assert len(combine_subsets(chosen, "union", ["all", "one"], name="five")) == 5
