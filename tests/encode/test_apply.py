"""A head applied to a store: joint embeddings as features that are written, found and measured as others."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from embedstore.bench import bench_retrieval
from embedstore.documents import FitConfig, QuarantinedRow
from embedstore.encode import apply_head, recode_feature
from embedstore.errors import EncoderError, HeadError, MismatchError, UsageError
from embedstore.fit import fit_head
from embedstore.model import applied_feature, feature_of_card, load_head
from embedstore.store import FeatureWriter, compact_store, open_store, plan_feature, verify_store
from embedstore.store.advice import made_by
from embedstore.testing.stores import random_card, write_random_store


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


CONFIG = FitConfig(image="vision", text="words", split="train", width=8, epochs=2, batch_size=32, lr=5e-3)


@pytest.fixture(scope="module")
def head_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("apply")
    fit_head(write_random_store(root / "store", images=100, captions=2), CONFIG, root / "head", device="cpu")
    return root / "head"


@pytest.fixture
def store(tmp_path):
    return write_random_store(tmp_path / "store", images=100, captions=2)


def test_the_stored_rows_are_the_heads_own(store, head_dir):
    seen = []
    images, texts = apply_head(head_dir, store.path, name="joint", device="cpu", on_progress=seen.append)
    opened, head = open_store(store.path), load_head(head_dir)
    assert (images.source, texts.source, images.fresh, texts.fresh) == ("vision", "words", 100, 200)
    assert opened["joint"].arrays == ("pooled", "status")
    wanted = head.embed_images(opened["vision"], np.arange(100))
    np.testing.assert_allclose(opened["joint"].decoded("pooled", range(100)), wanted, atol=1e-3)
    wanted = head.embed_texts(opened["words"], np.arange(200))
    np.testing.assert_allclose(opened["joint-texts"].decoded("pooled", range(200)), wanted, atol=1e-3)
    assert (seen[-1].feature, seen[-1].done, seen[-1].total) == ("joint-texts", 200, 200)
    assert verify_store(store.path).sound


def test_of_another_name_the_feature_of_as_many_tokens_is_read(store, head_dir):
    for name, policy in (("a-few", "cls+mean"), ("b-few", "merge-3+int8")):
        recode_feature(store.path, "vision", policy=policy, name=name)
    opened, card = open_store(store.path), load_head(head_dir).config.image_card
    for shrink, name in ((None, "vision"), ("merge-3", "b-few"), ("cls+mean", "a-few")):
        assert feature_of_card(opened, "elsewhere", card, shrink=shrink).name == name
    assert feature_of_card(opened, "a-few", card).name == "a-few"


def test_the_card_names_the_head_and_the_encoder(store, head_dir):
    apply_head(head_dir, store.path, name="joint", device="cpu")
    card, head = open_store(store.path)["joint"].card, load_head(head_dir)
    assert (card.library, card.architecture, card.width, card.pooling) == ("embedstore", "token", 8, "joint")
    assert card.head.sha256 == head.sha256
    assert card.head.encoder_sha256 == store["vision"].card.identity_sha256
    assert applied_feature(open_store(store.path), head, "images") == "joint"
    assert applied_feature(open_store(store.path), head, "texts") == "joint-texts"
    assert applied_feature(store, load_head(head_dir), "images") == "joint"
    header = open_store(store.path).header("joint")
    assert made_by(store.path, header) == "apply"
    recode_feature(store.path, "joint", policy="int8", name="small")
    assert made_by(store.path, open_store(store.path).header("small")) == "recode"
    from embedstore.encoders import encoder_for_card

    with pytest.raises(EncoderError, match="by a head"):
        encoder_for_card(card)


def test_bench_measures_what_was_applied_without_the_head(store, head_dir):
    apply_head(head_dir, store.path, name="joint", policy="float32", device="cpu")
    stored = bench_retrieval(store.path, image="joint", text="joint-texts", device="cpu")
    direct = bench_retrieval(store.path, head_dir, device="cpu")
    assert stored.metrics == direct.metrics
    assert stored.head_sha256 == direct.head_sha256
    assert "no head was given" in stored.notes[0]
    named = bench_retrieval(store.path, head_dir, image="vision", text="words", device="cpu")
    assert named.metrics == direct.metrics


def test_features_of_two_models_that_no_head_joins_are_told(tmp_path):
    both = write_random_store(tmp_path / "both", image_width=12)
    (told,) = bench_retrieval(both.path, image="vision", text="words", device="cpu").notes
    assert re.fullmatch(r"cosines mean .* random-image-\d+ and random-text-\d+ were trained together", told)


def test_what_is_not_of_one_space_is_not_compared(store, head_dir, tmp_path):
    apply_head(head_dir, store.path, name="joint", device="cpu")
    fit_head(store, CONFIG.model_copy(update={"seed": 1}), tmp_path / "other", device="cpu")
    apply_head(tmp_path / "other", store.path, name="second", device="cpu")
    with pytest.raises(HeadError, match="not of one head"):
        bench_retrieval(store.path, image="joint", text="second-texts")
    with pytest.raises(HeadError, match="widths 16 and 12"):
        bench_retrieval(store.path, image="vision", text="words")
    with pytest.raises(UsageError, match=r"--head DIR, or two features"):
        bench_retrieval(store.path)
    with pytest.raises(UsageError, match="feature of images"):
        bench_retrieval(store.path, image="joint", text="joint")
    with pytest.raises(HeadError, match="joint embeddings of another head"):
        bench_retrieval(store.path, head_dir, image="second")


def test_a_joint_feature_can_be_fitted_on(store, head_dir, tmp_path):
    apply_head(head_dir, store.path, name="joint", device="cpu")
    again = CONFIG.model_copy(
        update={"image": "joint", "text": "joint-texts", "image_local": "identity", "text_token": "identity"}
    )
    found = fit_head(store.path, again, tmp_path / "again", device="cpu")
    assert load_head(found.out).config.image_card.head is not None


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(store, head_dir, tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    whole = write_random_store(tmp_path / "whole", images=100, captions=2)
    apply_head(head_dir, whole.path, name="joint", shard_rows=16, device="cpu")
    write = FeatureWriter.write_unit

    def stopping(self, unit, *args, **kwargs):
        if unit == 3:
            raise StoppedError
        return write(self, unit, *args, **kwargs)

    monkeypatch.setattr(FeatureWriter, "write_unit", stopping)
    with pytest.raises(StoppedError):
        apply_head(head_dir, store.path, name="joint", shard_rows=16, device="cpu")
    monkeypatch.setattr(FeatureWriter, "write_unit", write)
    images, _ = apply_head(head_dir, store.path, name="joint", shard_rows=16, device="cpu")
    assert 0 < images.fresh < 100
    files = sorted(p.relative_to(whole.path) for p in whole.path.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(store.path) for p in store.path.rglob("*") if p.is_file())
    for file in files:
        assert (store.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    images, texts = apply_head(head_dir, store.path, name="joint", shard_rows=16, device="cpu")
    assert (images.fresh, texts.fresh) == (0, 0)


def test_rows_that_could_not_be_read_stay_quarantined(head_dir, tmp_path):
    store = write_random_store(tmp_path / "store", images=100, captions=2, shard_rows=32)
    old = store["vision"]
    header = plan_feature(name="holes", plan=store.plan, card=old.card, shard_rows=32)
    writer, bad = FeatureWriter.open(store.path, header), (5, 40, 41)
    for unit in range(header.units):
        rows = header.unit_rows(unit)
        arrays = {name: old.read(name, rows.start, rows.stop) for name in ("tokens", "prefix", "pooled")}
        gone = [QuarantinedRow(row=r, id=f"s{r:06d}", reason="truncated file") for r in bad if r in rows]
        writer.write_unit(unit, arrays, quarantined=gone)
    writer.finish()
    (made,) = apply_head(head_dir, store.path, name="joint", table="images", image="holes", device="cpu")
    assert made.manifest.quarantined == 3
    found = open_store(store.path)["joint"]
    assert np.flatnonzero(found.status()).tolist() == list(bad)
    assert np.isnan(found.read("pooled", 40, 41)).all()
    assert np.isfinite(found.read("pooled", 6, 40)).all()
    assert verify_store(store.path).sound


def test_every_part_of_a_joined_store_gets_its_own_rows(head_dir, tmp_path):
    first = write_random_store(tmp_path / "a", images=40, captions=2)
    second = write_random_store(tmp_path / "b", images=30, captions=2, seed=4, card_seed=0, ids="t")
    made = apply_head(head_dir, f"{first.path}+{second.path}", name="joint", device="cpu")
    assert [f.manifest.header.rows for f in made] == [40, 80, 30, 60]
    both = open_store(f"{first.path}+{second.path}")
    assert both["joint"].rows == 70
    wanted = load_head(head_dir).embed_images(both["vision"], np.arange(70))
    np.testing.assert_allclose(both["joint"].decoded("pooled", range(70)), wanted, atol=1e-3)
    report = bench_retrieval(both, image="joint", text="joint-texts", split=None)
    assert report.images == 70


def test_compact_keeps_joint_features(store, head_dir, tmp_path):
    apply_head(head_dir, store.path, name="joint", device="cpu")
    compact_store(store.path, tmp_path / "less", drop=["s000001"])
    less = open_store(tmp_path / "less")
    assert less["joint"].rows == 99
    assert applied_feature(less, load_head(head_dir), "images") == "joint"


def test_names_and_features_that_cannot_be_meant(store, head_dir, tmp_path):
    with pytest.raises(MismatchError, match=r"(?s)there already.*random"):
        apply_head(head_dir, store.path, name="vision", device="cpu")
    with pytest.raises(UsageError, match="names and tables"):
        apply_head(head_dir, store.path, name="a,b", table="texts")
    with pytest.raises(UsageError, match="names and tables"):
        apply_head(head_dir, store.path, name="a,a")
    with pytest.raises(UsageError, match="images, texts, both"):
        apply_head(head_dir, store.path, name="a", table="rows")
    with pytest.raises(UsageError, match="float16, float32"):
        apply_head(head_dir, store.path, name="a", policy="int8")
    with pytest.raises(HeadError, match="feature of texts"):
        apply_head(head_dir, store.path, name="a", image="words")
    other = write_random_store(tmp_path / "other", images=10, image_width=20, seed=4)
    with pytest.raises(HeadError, match="no feature of the image encoder"):
        apply_head(head_dir, other.path, name="a")
    with pytest.raises(HeadError, match="another encoder"):
        apply_head(head_dir, other.path, name="a", image="vision")
    assert set(open_store(store.path).features()) == {"vision", "words"}
    assert set(open_store(other.path).features()) == {"vision", "words"}


def test_a_card_of_joint_embeddings_and_no_other_names_a_head():
    card = random_card("image", width=4, tokens=4)
    with pytest.raises(ValueError, match="names a head"):
        type(card).model_validate(card.model_dump() | {"library": "embedstore"})


def test_the_command(run, store, head_dir):
    code, out, err = run("apply", head_dir, store.path, "--as", "joint", "--device", "cpu")
    assert code == 0, err
    assert "joint: 100 images of vision, 8 wide, float16" in out
    code, out, _ = run("apply", head_dir, store.path, "--as", "joint", "--device", "cpu", "--json")
    assert [f["fresh_rows"] for f in json.loads(out)["features"]] == [0, 0]
    one = ["--as", "only", "--table", "texts", "--device", "cpu"]
    assert run("apply", head_dir, store.path, *one)[0] == 0
    assert open_store(store.path).header("only").table == "texts"
    code, out, _ = run(
        "bench", "retrieval", store.path, "--image", "joint", "--text", "joint-texts", "--device", "cpu"
    )
    assert code == 0
    assert "recall@1" in out
    assert run("bench", "retrieval", store.path)[0] == 2


def test_a_text_without_tokens_becomes_a_quarantined_row(head_dir, tmp_path):
    store = write_random_store(tmp_path / "store", images=20, captions=2)
    old = store["words"]
    header = plan_feature(name="gaps", plan=store.plan, card=old.card)
    lengths = old.lengths().copy()
    kept = np.repeat(np.arange(40) != 7, lengths)
    lengths[7] = 0
    tokens = old.text_tokens(range(40)).tokens[kept]
    writer = FeatureWriter.open(store.path, header)
    at = 0
    for unit in range(header.units):
        rows = header.unit_rows(unit)
        own = lengths[rows.start : rows.stop]
        arrays = {"lengths": own, "pooled": old.read("pooled", rows.start, rows.stop)}
        writer.write_unit(unit, arrays | {"tokens": tokens[at : at + own.sum()]})
        at += own.sum()
    writer.finish()
    (made,) = apply_head(head_dir, store.path, name="joint", table="texts", text="gaps", device="cpu")
    assert made.manifest.quarantined == 1
    assert np.flatnonzero(open_store(store.path)["joint"].status()).tolist() == [7]
