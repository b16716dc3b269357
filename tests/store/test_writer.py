from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from embedstore.documents import QuarantinedRow
from embedstore.errors import (
    IncompleteError,
    MismatchError,
    StorageValueError,
    StoreError,
    StoreNotFoundError,
)
from embedstore.store import FeatureWriter, create_store, files, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables


@pytest.fixture
def planned(tmp_path, kit):
    """An empty store of the kit's size, and the headers of its two features."""
    plan = random_plan(images=kit.images, captions=kit.captions)
    pictures, words = random_tables(
        images=kit.images, captions=kit.captions, classes=np.zeros(kit.images, np.int64)
    )
    create_store(tmp_path / "store", plan, images=[pictures], texts=[words])
    return tmp_path / "store", *kit.headers(plan)


def test_units_are_written_in_any_order_and_read_back(planned, kit):
    store, vision, words = planned
    for header in (vision, words):
        writer = FeatureWriter.open(store, header)
        for unit in reversed(writer.missing_units()):
            arrays, quarantined, thumbnails = kit.unit_values(header, unit)
            record = writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
            assert record.rows == (header.unit_rows(unit).start, header.unit_rows(unit).stop)
        assert writer.quarantined() == 1
        manifest = writer.finish()
        assert manifest.quarantined == writer.quarantined() == 1
    opened = open_store(store)
    images, texts = opened["vision"], opened["words"]
    for unit in range(2):
        arrays, _, thumbnails = kit.unit_values(vision, unit)
        rows = vision.unit_rows(unit)
        good = [r for r in rows if r != 6]
        for name in ("tokens", "prefix", "pooled"):
            np.testing.assert_array_equal(
                images.gather(name, good), arrays[name][np.array(good) - rows.start].astype(np.float16)
            )
        assert opened.thumbnails(list(rows)) == thumbnails
        packed, _, _ = kit.unit_values(words, unit)
        read = texts.text_tokens(words.unit_rows(unit))
        np.testing.assert_array_equal(read.tokens, packed["tokens"])
        np.testing.assert_array_equal(read.lengths, packed["lengths"])
    assert images.status().tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert np.isnan(images.read("tokens", 6, 7)).all()
    assert np.isnan(texts.read("pooled", 10, 11)).all()
    assert texts.lengths()[10] == 0
    assert images.manifest.tokens == 7 * 4
    assert texts.manifest.tokens == int(texts.lengths().sum())


def test_the_callers_arrays_are_left_alone(planned, kit):
    store, vision, _ = planned
    writer = FeatureWriter.open(store, vision)
    arrays, quarantined, thumbnails = kit.unit_values(vision, 1)
    arrays["tokens"] = arrays["tokens"].astype(np.float16)
    for values in arrays.values():
        values.flags.writeable = False
    writer.write_unit(1, arrays, quarantined=quarantined, thumbnails=thumbnails)
    assert np.isfinite(arrays["tokens"]).all()


def test_only_missing_and_damaged_units_are_made_again(planned, kit):
    store, vision, _ = planned
    writer = FeatureWriter.open(store, vision)
    assert writer.missing_units() == [0, 1]
    for unit in (0, 1):
        arrays, quarantined, thumbnails = kit.unit_values(vision, unit)
        writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
    assert writer.missing_units() == []
    folder = store / "features/vision"
    for damage in (
        (folder / "tokens/c/1/0/0").unlink,
        lambda: os.truncate(folder / "pooled/c/1/0", 9),
        lambda: (folder / "units/00000001.json").write_text("{"),
        lambda: (folder / "units/00000001.json").write_bytes((folder / "units/00000000.json").read_bytes()),
        lambda: (folder / "prefix/c/1/0/0").write_bytes(
            (folder / "prefix/c/1/0/0").read_bytes()[:-4] + b"abcd"
        ),
    ):
        damage()
        assert writer.missing_units() == [1]
        with pytest.raises(IncompleteError, match=r"(?s)vision.*1 of 2 units.*same embedstore encode"):
            writer.finish()
        writer.write_unit(1, arrays, quarantined=quarantined, thumbnails=thumbnails)
        assert writer.missing_units() == []
    writer.finish()


def test_the_second_writer_of_a_unit_discards_its_own(planned, kit):
    store, vision, _ = planned
    writer = FeatureWriter.open(store, vision)
    arrays, quarantined, thumbnails = kit.unit_values(vision, 0)
    first = writer.write_unit(0, arrays, quarantined=quarantined, thumbnails=thumbnails)
    before = kit.tree(store)
    other, _, _ = kit.unit_values(vision, 0, seed=9)
    assert writer.write_unit(0, other, quarantined=quarantined, thumbnails=thumbnails) == first
    assert kit.tree(store) == before


def test_finish_twice_and_writing_after_it_change_nothing(planned, kit):
    store, vision, _ = planned
    writer, late = FeatureWriter.open(store, vision), FeatureWriter.open(store, vision)
    kit.write_missing(writer)
    before = kit.tree(store)
    arrays, quarantined, thumbnails = kit.unit_values(vision, 1)
    assert late.write_unit(1, arrays, quarantined=quarantined, thumbnails=thumbnails).unit == 1
    assert late.finish() == writer.finish() == FeatureWriter.open(store, vision).finish()
    assert kit.tree(store) == before
    assert not (store / "features/vision/units").exists()


def test_another_card_under_the_same_name_is_refused_with_the_fields(planned):
    store, vision, _ = planned
    FeatureWriter.open(store, vision)
    other = plan_feature(
        name="vision",
        plan=open_store(store).plan,
        card=random_card("image", width=3, tokens=4, seed=7),
        shard_rows=4,
    )
    with pytest.raises(MismatchError, match=r"(?s)card\.model.*card\.weights_sha256.*thumbnails.*NAME=SPEC"):
        FeatureWriter.open(store, other)


def test_other_shard_rows_on_resume_are_refused(planned):
    store, vision, _ = planned
    FeatureWriter.open(store, vision)
    other = plan_feature(
        name="vision", plan=open_store(store).plan, card=vision.card, shard_rows=8, thumbnails=16
    )
    with pytest.raises(MismatchError, match="shard_rows: stored 4, now 8"):
        FeatureWriter.open(store, other)


def test_a_header_needs_a_store_and_its_own_plan(planned, tmp_path):
    store, vision, _ = planned
    with pytest.raises(StoreNotFoundError, match="plan the store first"):
        FeatureWriter.open(tmp_path / "nowhere", vision)
    foreign = plan_feature(name="vision", plan=random_plan(images=9, captions=1), card=vision.card)
    with pytest.raises(MismatchError, match="another plan"):
        FeatureWriter.open(store, foreign)


WRONG = {
    "shape": ({"tokens": np.zeros((4, 5, 3), np.float32)}, {}, r"wrong shape of tokens in unit 0"),
    "rows": ({"pooled": np.zeros((3, 3), np.float32)}, {}, r"(?s)wrong shape.*\(3, 3\).*\(4, 3\)"),
    "dtype": ({"pooled": np.zeros((4, 3), np.float64)}, {}, r"(?s)wrong dtype.*float64.*float16 or float32"),
    "integers": ({"pooled": np.zeros((4, 3), np.int64)}, {}, "wrong dtype"),
    "unknown": ({"extra": np.zeros(4, np.float32)}, {}, "wrong arrays"),
    "no thumbnails": ({}, {"thumbnails": None}, "wrong number of thumbnails"),
    "few thumbnails": ({}, {"thumbnails": [b"a"]}, "wrong number of thumbnails"),
    "foreign row": ({}, {"quarantined": [QuarantinedRow(row=4, id="s", reason="r")]}, "do not fit the unit"),
    "row twice": (
        {},
        {"quarantined": [QuarantinedRow(row=1, id="s", reason="r")] * 2},
        "do not fit the unit",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_header_is_refused_and_nothing_is_written(planned, kit, case):
    store, vision, _ = planned
    writer = FeatureWriter.open(store, vision)
    arrays, quarantined, thumbnails = kit.unit_values(vision, 0)
    change, options, words = WRONG[case]
    before = kit.tree(store)
    with pytest.raises(StorageValueError, match=words):
        writer.write_unit(
            0, arrays | change, **({"quarantined": quarantined, "thumbnails": thumbnails} | options)
        )
    assert kit.tree(store) == before


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([1] * 7, "wrong lengths"),
        ([1.0] * 8, "wrong lengths"),
        ([6] + [0] * 7, r"(?s)row 0 has a wrong number of tokens.*found: 6.*0 to 5"),
        ([0, -1] + [0] * 6, "row 1 has a wrong number"),
        ([2] * 8, "wrong shape of tokens"),
    ],
)
def test_lengths_must_fit(planned, kit, lengths, words):
    store, _, text = planned
    arrays, _, _ = kit.unit_values(text, 0)
    with pytest.raises(StorageValueError, match=words):
        FeatureWriter.open(store, text).write_unit(0, arrays | {"lengths": np.array(lengths)})


def test_a_quarantined_text_has_no_tokens(planned, kit):
    store, _, text = planned
    arrays, _, _ = kit.unit_values(text, 0)
    arrays["lengths"] = np.array([1] * 8)
    arrays["tokens"] = np.zeros((8, 2), np.float32)
    bad = [QuarantinedRow(row=3, id="s000001#1", reason="empty")]
    with pytest.raises(StorageValueError, match=r"(?s)row 3 .*0 for a quarantined row"):
        FeatureWriter.open(store, text).write_unit(0, arrays, quarantined=bad)


def test_no_such_unit_and_no_thumbnails_kept(planned, kit):
    store, vision, text = planned
    arrays, _, thumbnails = kit.unit_values(vision, 0)
    with pytest.raises(StorageValueError, match="0 to 1"):
        FeatureWriter.open(store, vision).write_unit(2, arrays, thumbnails=thumbnails)
    words, _, _ = kit.unit_values(text, 0)
    with pytest.raises(StorageValueError, match="keeps no thumbnails"):
        FeatureWriter.open(store, text).write_unit(0, words, thumbnails=[None] * 8)


def test_a_value_that_float16_cannot_hold_is_named(planned, kit):
    store, vision, _ = planned
    arrays, quarantined, thumbnails = kit.unit_values(vision, 1)
    arrays["tokens"][1, 2, 0] = 70000.0
    with pytest.raises(
        StorageValueError, match=r"(?s)row 5 of vision/tokens.*70000.*float32, which would hold it"
    ):
        FeatureWriter.open(store, vision).write_unit(
            1, arrays, quarantined=quarantined, thumbnails=thumbnails
        )


def test_a_text_value_that_is_not_finite_is_named_by_its_row(planned, kit):
    store, _, text = planned
    arrays, _, _ = kit.unit_values(text, 0)
    place = int(arrays["lengths"][:6].sum())
    owner = int(np.flatnonzero(arrays["lengths"][6:])[0]) + 6
    arrays["tokens"][place, 1] = np.inf
    with pytest.raises(StorageValueError, match=rf"(?s)row {owner} of words/tokens.*inf.*quarantine the row"):
        FeatureWriter.open(store, text).write_unit(0, arrays)


def test_a_full_disk_is_said_and_leaves_a_sound_store(planned, kit, monkeypatch):
    store, vision, _ = planned
    writer = FeatureWriter.open(store, vision)
    arrays, quarantined, thumbnails = kit.unit_values(vision, 0)
    before = kit.tree(store)

    real = os.fsync
    for good in range(5):
        flushed = []

        def full(handle, limit=good, flushed=flushed):
            flushed.append(handle)
            if len(flushed) > limit:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"(?s)disk is full.*what is finished stays"):
                writer.write_unit(0, arrays, quarantined=quarantined, thumbnails=thumbnails)
        assert kit.tree(store) == before
    kit.write_missing(writer)


def test_where_links_are_not_supported_creation_is_still_exclusive(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert files.commit(tmp_path / "a.json", b"one")
    assert not files.commit(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
