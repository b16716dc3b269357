"""Balancing by entries: matching against a slow twin, draws that depend on row and entry alone."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.curate import balance_rows
from embedstore.curate.matching import Matcher, read_entries, tokens
from embedstore.errors import MissingExtraError, UsageError
from embedstore.store import create_store, create_subset, open_store
from embedstore.testing.stores import random_plan, random_tables

WORDS = ["cat", "dog", "red", "a", "catalogue"]


def world(place, texts, captions=1, ids="s"):
    """A store whose captions are these texts."""
    count = len(texts) // captions
    plan = random_plan(images=count, captions=captions)
    images, lines = random_tables(images=count, captions=captions, classes=np.arange(count) % 4, ids=ids)
    at = lines.schema.get_field_index("text")
    lines = lines.set_column(at, lines.schema.field("text"), pa.array(texts))
    create_store(place, plan, images=[images], texts=[lines])
    return open_store(place)


def test_words_are_whole_and_punctuation_is_by_itself():
    matcher = Matcher(["cat", "New York", "c++", "黒猫", "it's", "naïve", "कि", " ", "CAT"])
    assert matcher.entries == ("cat", "New York", "c++", "黒猫", "it's", "naïve", "कि")
    assert matcher.left_out == 2

    def found(text):
        return [matcher.entries[k] for k in matcher.match([text])[1]]

    assert found("A cat, (the CAT)!") == ["cat"]
    assert found("catalogue of concatenated bobcats") == []
    assert found("in new\n york.") == ["New York"]
    assert found("newyork, new-york") == []
    assert found("C++ and c+") == ["c++"]
    assert found("大きな黒猫がいる") == ["黒猫"]
    assert found("It's naïve") == ["it's", "naïve"]
    assert found("nai\u0308ve") == ["naïve"]
    assert found("किताब") == []
    assert found("photo-cat_dog cat") == ["cat"]
    assert found("") == []
    cased = Matcher(["Apple"], case=True)
    assert cased.match(["an apple", "by Apple"])[0].tolist() == [1]


@given(
    entries=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8
    ),
    texts=st.lists(
        st.lists(st.sampled_from([*WORDS, "dogs", ".", "-"]), max_size=8).map(" ".join), max_size=8
    ),
)
def test_matches_are_those_of_a_regular_expression(entries, texts):
    matcher = Matcher(entries)
    rows, found = matcher.match(texts)
    wanted = [
        (k, n)
        for k, text in enumerate(texts)
        for n, entry in enumerate(matcher.entries)
        if re.search(rf"(?<!\w){re.escape(entry)}(?!\w)", text)
    ]
    assert list(zip(rows.tolist(), found.tolist(), strict=True)) == wanted


@given(st.text(max_size=20))
def test_tokens_are_stable(text):
    once = tokens(text)
    assert tokens(once) == once
    assert not once or (once[0] == once[-1] == " ")
    assert "  " not in once


def test_rare_entries_stay_whole_and_frequent_ones_come_near_the_cap(tmp_path):
    texts = ["a cat"] * 3000 + ["a dog"] * 40 + ["a cat and a dog"] * 10 + ["nothing"] * 50
    store = world(tmp_path / "store", texts)
    found = balance_rows(store, name="even", entries=["cat", "dog", "bird"], cap=100, seed=3)
    assert found.counts.tolist() == [3010, 50, 0]
    assert (found.matched, found.unmatched) == (3050, 50)
    assert found.kept[1] == 50
    assert (
        abs(found.kept[0] - 110) < 50
    )  # 3,000 draws of 100/3010, five standard deviations, and ten for dogs
    lines = found.subset.read().to_pylist()
    assert {line["concept"] for line in lines if line["row"] >= 3000} == {"dog"}
    assert {line["score"] for line in lines if line["row"] >= 3000} == {1.0}
    assert [line["score"] for line in lines if line["row"] < 3000] == pytest.approx(
        [100 / 3010] * (found.kept[0] - 10)
    )
    assert found.subset.card.counts == {
        "considered": 3100,
        "matched": 3050,
        "unmatched": 50,
        "entries_matched": 2,
        "entries_above_the_cap": 1,
        "entries_left_out": 0,
    }
    assert len(found.subset) == found.kept.sum() - 10
    head, tail = found.ends(1)
    assert (head.tolist(), tail.tolist()) == ([0], [1])


def test_draws_depend_on_row_and_entry_alone(tmp_path, monkeypatch):
    """Not on blocks, not on the order of the entries, not on other entries that keep their rows' counts."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(300)]
    store = world(tmp_path / "store", texts, captions=2)
    first = balance_rows(store, name="first", entries=WORDS[:3], cap=20)
    monkeypatch.setattr("embedstore.curate.balance.BLOCK", 7)
    blocks = balance_rows(store, name="blocks", entries=WORDS[:3], cap=20)
    assert blocks.subset.read() == first.subset.read()
    turned = balance_rows(store, name="turned", entries=WORDS[2::-1], cap=20)
    assert turned.subset.rows.tolist() == first.subset.rows.tolist()
    assert turned.counts.tolist() == first.counts.tolist()[::-1]
    more = balance_rows(store, name="more", entries=[*WORDS[:3], "unheard of"], cap=20)
    assert more.subset.read() == first.subset.read()
    wider = balance_rows(store, name="wider", entries=WORDS[:3], cap=40)
    assert set(first.subset.rows.tolist()) < set(wider.subset.rows.tolist())
    other = balance_rows(store, name="other", entries=WORDS[:3], cap=20, seed=-1)
    assert other.subset.rows.tolist() != first.subset.rows.tolist()
    # Entries of an image are those of all its texts.
    wanted = [sum(any(w in texts[2 * k + j].split() for j in (0, 1)) for k in range(150)) for w in WORDS[:3]]
    assert first.counts.tolist() == wanted


def test_texts_rows_and_class_names(tmp_path):
    texts = ["a cat", "a dog", "a cat", "a dog"]
    store = world(tmp_path / "store", texts, captions=2)
    single = balance_rows(store, name="single", entries=("dog",), table="texts")
    assert (single.subset.table, single.subset.rows.tolist()) == ("texts", [1, 3])
    create_subset(store, "one", {"row": [1]})
    assert balance_rows(store, name="x", entries=("dog",), rows="one").subset.rows.tolist() == [1]
    create_subset(store, "said", {"row": [0, 3]}, table="texts")
    narrow = balance_rows(store, name="y", entries=("dog",), rows="said")
    assert (narrow.subset.rows.tolist(), narrow.unmatched) == ([1], 1)
    with pytest.raises(UsageError, match="none of 4 entries"):
        balance_rows(store, name="z")
    both = open_store(f"{store.path}+{world(tmp_path / 'twin', ['a bird', 'x'], 2, 't').path}")
    assert balance_rows(both, name="w", entries=("bird",)).subset.rows.tolist() == [2]


def test_bad_entries_are_refused(tmp_path, monkeypatch):
    store = world(tmp_path / "store", ["a cat", "a dog"])
    (tmp_path / "list.json").write_text('["cat", " dog "]')
    assert read_entries(tmp_path / "list.json") == ["cat", "dog"]
    (tmp_path / "lines.txt").write_text("cat\n\n  red dog \n")
    assert read_entries(tmp_path / "lines.txt") == ["cat", "red dog"]
    for content in ("{}", "[1]", "no json", "[]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UsageError):
            read_entries(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_entries(tmp_path / "nothing.txt")
    with pytest.raises(UsageError, match="one row at least"):
        balance_rows(store, name="x", entries=["cat"], cap=0)
    with pytest.raises(UsageError, match="no entry to match"):
        balance_rows(store, name="x", entries=[" "])
    monkeypatch.setitem(sys.modules, "ahocorasick", None)
    with pytest.raises(MissingExtraError, match=r"embedstore\[curate\]"):
        balance_rows(store, name="x", entries=["cat"])


def test_the_command(tmp_path, run):
    store = world(tmp_path / "store", ["a cat"] * 30 + ["a dog"] * 3 + ["none"] * 2)
    (tmp_path / "entries.txt").write_text("cat\ndog\nbird\n")
    place = ("curate", "balance", store.path, "--entries", tmp_path / "entries.txt", "--cap", 5)
    code, out, err = run(*place, "--name", "even")
    assert code == 0, err
    assert "33 rows with an entry, 2 without" in out
    assert "2 of 3 entries found, 1 above the cap of 5" in out
    assert max(map(len, out.splitlines())) <= 80
    assert json.loads(run(*place, "--name", "even", "--overwrite", "--json")[1])["verb"] == "balance"
