"""Rows by the agreement of image and text, against a slow twin; ties, cuts and bad vectors."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.curate import score_rows
from embedstore.curate.score import ranked
from embedstore.documents import FitConfig
from embedstore.encode import apply_head
from embedstore.errors import HeadError, StoreError, UsageError
from embedstore.fit import fit_head
from embedstore.model import load_head
from embedstore.recipes.score_chart import score_chart
from embedstore.store import create_store, create_subset, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables, write_feature

PAIR = {"image": "vision", "text": "words"}


def unit(values):
    values = values.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def cosines(store):
    """The score of every text with its image."""
    owners = store.texts(["image"])["image"].to_numpy()
    images = unit(store["vision"].decoded("pooled", np.arange(store.plan.images)))
    texts = unit(store["words"].decoded("pooled", np.arange(store.plan.texts)))
    return owners, (images[owners] * texts).sum(axis=1)


@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=30),
    share=st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]),
    data=st.data(),
)
def test_ranks_and_shares_are_those_of_a_sorted_list(scores, share, data):
    """Equal scores by row, shares rounded up as decimals are meant: 0.1 of 30 is 3."""
    rows = np.array(
        sorted(data.draw(st.sets(st.integers(0, 99), min_size=len(scores), max_size=len(scores))))
    )
    groups = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores))))
    rank, kept = ranked(rows, np.array(scores), groups, keep=share, min_score=None)
    for group in set(groups.tolist()):
        mine = [k for k in range(len(rows)) if groups[k] == group]
        best = sorted(mine, key=lambda k: (-scores[k], rows[k]))
        assert [rank[k] for k in best] == list(range(1, len(best) + 1))
        assert [bool(kept[k]) for k in best] == [
            place < ceil(Fraction(str(share)) * len(best)) for place in range(len(best))
        ]
    _, above = ranked(rows, np.array(scores), None, keep=None, min_score=0.3)
    assert above.tolist() == [score >= 0.3 for score in scores]


@pytest.mark.parametrize(
    ("captions", "reduce"), [("best", max), ("mean", np.mean), ("first", lambda x: x[0])]
)
def test_images_by_their_captions(store, captions, reduce, monkeypatch):
    owners, every = cosines(store)
    wanted = np.array([reduce(every[owners == row]) for row in range(40)])
    found = score_rows(store, name=captions, keep=0.25, captions=captions, **PAIR)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    assert found.subset.rows.tolist() == sorted(np.argsort(-wanted)[:10].tolist())
    assert found.cut == pytest.approx(np.sort(wanted)[-10], abs=1e-6)
    lines = sorted(found.subset.read().to_pylist(), key=lambda line: line["rank"])
    assert [line["rank"] for line in lines] == list(range(1, 11))
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    card = found.subset.card
    assert card.settings["captions"] == captions
    assert [(parent.kind, parent.name) for parent in card.parents] == [
        ("feature", "vision"),
        ("feature", "words"),
    ]
    assert card.counts == {"considered": 40}
    monkeypatch.setattr("embedstore.curate.agreement.BLOCK", 7)
    again = score_rows(store, name="again", keep=0.25, captions=captions, **PAIR)
    assert again.scores.tolist() == found.scores.tolist()


def test_texts_have_their_own_scores(store):
    _, every = cosines(store)
    found = score_rows(store, name="t", table="texts", min_score=0.1, **PAIR)
    np.testing.assert_allclose(found.scores, every, atol=1e-6)
    assert found.subset.table == "texts"
    assert found.subset.rows.tolist() == np.flatnonzero(every >= 0.1).tolist()


def test_a_share_of_each_concept(store):
    labels = store.images(["label"])["label"].to_pylist()
    found = score_rows(store, name="each", keep=0.5, concepts="labels", **PAIR)
    lines = found.subset.read(["row", "concept"]).to_pylist()
    assert all(labels[line["row"]] == line["concept"] for line in lines)
    for label in set(labels):
        mine = [row for row in range(40) if labels[row] == label]
        best = sorted(mine, key=lambda row: (-found.scores[row], row))[: -(-len(mine) // 2)]
        assert [line["row"] for line in lines if line["concept"] == label] == sorted(best)
    assert found.cut is None
    create_subset(store, "collected", {"row": [1, 2, 3, 30], "concept": ["a", "a", "b", None]})
    few = score_rows(store, name="few", keep=0.5, concepts="collected", **PAIR)
    assert few.subset.read(["concept"])["concept"].to_pylist() == ["a", "b"]
    assert few.left_out == {"without_concept": 37}
    texts = score_rows(store, name="few-texts", keep=1.0, concepts="collected", table="texts", **PAIR)
    assert texts.subset.rows.tolist() == [2, 3, 4, 5, 6, 7]
    create_subset(store, "plain", {"row": [1]})
    with pytest.raises(UsageError, match="no concepts"):
        score_rows(store, name="x", keep=0.5, concepts="plain", **PAIR)


def test_rows_narrow_what_is_scored(store):
    create_subset(store, "some", {"row": [5, 6, 7]})
    create_subset(store, "words-of", {"row": [11, 12]}, table="texts")
    assert score_rows(store, name="a", keep=1.0, rows="some", **PAIR).subset.rows.tolist() == [5, 6, 7]
    found = score_rows(store, name="b", keep=1.0, rows="words-of", **PAIR)
    assert found.subset.rows.tolist() == [5, 6]
    np.testing.assert_allclose(found.scores, cosines(store)[1][[11, 12]], atol=1e-6)


def test_through_a_head_and_what_it_has_made(store, tmp_path):
    config = FitConfig(image="vision", text="words", width=6, epochs=1, batch_size=8)
    fit_head(store.path, config, tmp_path / "head", device="cpu")
    head = load_head(tmp_path / "head")
    owners = store.texts(["image"])["image"].to_numpy()
    images = head.embed_images(store["vision"], np.arange(40)).astype(np.float64)
    texts = head.embed_texts(store["words"], np.arange(80)).astype(np.float64)
    wanted = (images[owners] * texts).sum(axis=1).reshape(40, 2).max(axis=1)
    found = score_rows(store, name="fitted", head=tmp_path / "head", keep=0.5, device="cpu")
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    assert [parent.kind for parent in found.subset.card.parents] == ["feature", "feature", "head"]
    apply_head(tmp_path / "head", store.path, name="joint", policy="float32", device="cpu")
    stored = open_store(store.path)
    applied = score_rows(stored, name="applied", head=tmp_path / "head", keep=0.5, device="cpu")
    np.testing.assert_allclose(applied.scores, wanted, atol=1e-6)
    assert applied.subset.card.settings["image"] == "joint"
    pair = score_rows(stored, name="pair", image="joint", text="joint-texts", keep=0.5)
    assert pair.scores.tolist() == applied.scores.tolist()
    with pytest.raises(HeadError, match="not of one head"):
        score_rows(stored, name="x", image="joint", text="words", keep=0.5)


def test_zero_vectors_and_rows_without_text_are_counted(tmp_path):
    """Image 1 is a zero vector, of image 2 one caption is; image 3 has no caption in this language."""
    plan = random_plan(images=4, captions=2)
    images, texts = random_tables(images=4, captions=2, classes=np.zeros(4, np.int64))
    languages = ["en", "en", "en", "en", "en", "en", "de", "de"]
    place = texts.schema.get_field_index("language")
    texts = texts.set_column(place, texts.schema.field("language"), [languages])
    plan = plan.model_copy(update={"languages": {"de": 2, "en": 6}})
    create_store(tmp_path / "zeros", plan, images=[images], texts=[texts])
    rng = np.random.default_rng(0)
    for name, kind, count in (("vision", "image", 4), ("words", "text", 8)):
        card = random_card(kind, width=6, tokens=2).model_copy(update={"prefix_tokens": 0})
        header = plan_feature(name=name, plan=plan, card=card, policy="float32")
        pooled = rng.normal(size=(count, 6)).astype(np.float32)
        pooled[1 if name == "vision" else 5] = 0
        arrays = {"pooled": pooled}
        for spec in header.arrays:
            if spec.name == "tokens":
                arrays["tokens"] = np.ones(
                    (count, *spec.shape[1:]) if kind == "image" else (count, 6), np.float32
                )
            if spec.name == "prefix":
                arrays["prefix"] = np.ones((count, *spec.shape[1:]), np.float32)
            if spec.name == "lengths":
                arrays["lengths"] = np.ones(count, np.int64)
        write_feature(tmp_path / "zeros", header, arrays)
    found = score_rows(tmp_path / "zeros", name="x", keep=1.0, captions="mean", **PAIR)
    assert found.rows.tolist() == [0, 2]
    assert found.left_out == {"images_without_text": 1, "texts_with_zero_vectors": 3}
    store = open_store(tmp_path / "zeros")
    one = unit(store["vision"].decoded("pooled", [2])) @ unit(store["words"].decoded("pooled", [4])).T
    assert found.scores[1] == pytest.approx(float(one[0, 0]), abs=1e-6)
    everything = score_rows(tmp_path / "zeros", name="y", keep=1.0, language="all", role="all", **PAIR)
    assert everything.rows.tolist() == [0, 2, 3]


def test_what_cannot_be_chosen_is_refused(store):
    for wrong, words in (
        ({"keep": 0.5, "min_score": 0.1}, "how many rows"),
        ({}, "how many rows"),
        ({"keep": 0.0}, "no share"),
        ({"keep": 1.5}, "no share"),
        ({"min_score": 2.0}, "no cosine"),
        ({"min_score": 0.9999}, "nothing is left"),
        ({"keep": 0.5, "captions": "worst"}, "unknown choice"),
        ({"keep": 0.5, "table": "masks"}, "unknown table"),
        ({"keep": 0.5, "language": "fr"}, "no text has the role"),
        ({"min_score": 0.5, "concepts": "labels"}, "share of each"),
    ):
        with pytest.raises(UsageError, match=words):
            score_rows(store, name="x", **PAIR, **wrong)
    with pytest.raises(UsageError, match="nothing to compare"):
        score_rows(store, name="x", keep=0.5)
    with pytest.raises(UsageError, match="feature of texts"):
        score_rows(store, name="x", keep=0.5, image="words", text="vision")
    assert "x" not in store.subsets()
    create_subset(store, "taken", {"row": [1]})
    with pytest.raises(UsageError, match="already"):
        score_rows(store, name="taken", keep=0.5, **PAIR, on_progress=pytest.fail)
    with pytest.raises(StoreError, match="bad subset name"):
        score_rows(store, name="../up", keep=0.5, **PAIR, on_progress=pytest.fail)


def test_the_command_draws_the_cut(store, run, tmp_path):
    code, out, err = run(
        *("curate", "score", store.path, "--image", "vision", "--text", "words", "--keep", 0.3),
        *("--name", "good", "--plot", tmp_path / "good.svg"),
    )
    assert code == 0, err
    assert out.startswith("good: 12 images\nscores of 40: ")
    drawn = (tmp_path / "good.svg").read_text(encoding="utf-8")
    assert "cut at" in drawn
    assert "kept, 12" in drawn
    place = ("curate", "score", store.path, "--image", "vision", "--text", "words", "--keep", 0.3)
    assert run(*place, "--name", "plotless", "--plot", tmp_path / "no" / "x.svg")[0] == 2
    assert "plotless" not in store.subsets()
    again = score_rows(store, name="chart", keep=0.3, concepts="labels", **PAIR)
    assert "cut at" not in score_chart(again)
    _, every, kept = again.histogram()
    assert (every.sum(), kept.sum()) == (40, len(again.subset))
    code, out, _ = run(
        *("curate", "score", store.path, "--image", "vision", "--text", "words", "--min-score", 0, "--json"),
        *("--name", "good", "--overwrite"),
    )
    assert json.loads(out)["settings"]["min_score"] == 0
