"""`compact`: rows really gone, everything else equal to the bit, the new store there whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.errors import IncompleteError, MismatchError, StoreError, UsageError
from embedstore.store import (
    compact,
    compact_store,
    create_store,
    failpoints,
    open_store,
    read_ids,
    tables,
    verify_store,
)
from embedstore.testing.stores import random_plan, random_tables, write_random_store


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def check_copy(old, new, kept_images, kept_texts):
    """Every value of the new store against the old rows it came from."""
    pictures, words = old.images().take(kept_images), old.texts().take(kept_texts)
    assert new.images().equals(pictures)
    columns = ["id", "text", "language", "role", "category"]
    assert new.texts(columns).equals(words.select(columns))
    ids = pictures["id"].to_pylist()
    for text, image in zip(new.texts()["id"].to_pylist(), new.texts()["image"].to_pylist(), strict=True):
        assert text.startswith(ids[image] + "#")
    for name in new.features():
        ours, theirs = new[name], old[name]
        kept = kept_images if ours.table == "images" else kept_texts
        assert ours.card == theirs.card
        for array in ours.arrays:
            if array == "tokens" and ours.table == "texts":
                found, wanted = ours.text_tokens(slice(None)), theirs.text_tokens(kept)
                assert same_bits(found.tokens, wanted.tokens)
            else:
                assert same_bits(ours.read(array, 0, ours.rows), theirs.gather(array, kept))
    assert verify_store(new.path).findings == ()


def test_dropped_images_are_gone_with_their_texts(tmp_path):
    old = write_random_store(tmp_path / "a", images=80, captions=3, shard_rows=16)
    gone = ["s000000", "s000079", "s000033", "s000034"]
    report = compact_store(old.path, tmp_path / "new", drop=gone)
    assert (report.images, report.texts, report.dropped_images, report.dropped_texts) == (76, 228, 4, 12)
    new = open_store(tmp_path / "new")
    assert not set(gone) & set(new.images(["id"])["id"].to_pylist())
    images = np.setdiff1d(np.arange(80), [0, 33, 34, 79])
    check_copy(old, new, images, np.flatnonzero(np.isin(np.arange(240) // 3, images)))
    assert new.plan.splits == {
        name: new.images(["split"])["split"].to_pylist().count(name) for name in ("test", "train", "val")
    }
    assert new.lineage == (new.fingerprint, old.fingerprint)


def test_texts_alone_can_be_dropped(tmp_path):
    old = write_random_store(tmp_path / "a", images=12, captions=2)
    compact_store(old.path, tmp_path / "new", drop=["s000003#1", "s000004#0", "s000004#1"])
    check_copy(old, open_store(tmp_path / "new"), np.arange(12), np.setdiff1d(np.arange(24), [7, 8, 9]))


def test_quarantined_rows_and_thumbnails_stay_with_their_rows(kit, tmp_path):
    kit.run_whole(tmp_path / "a")
    old = open_store(tmp_path / "a")
    compact_store(old.path, tmp_path / "new", drop=["s000001", "s000005#1"])
    new = open_store(tmp_path / "new")
    check_copy(old, new, [0, 2, 3, 4, 5, 6], [0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13])
    assert new.thumbnails(range(6)) == old.thumbnails([0, 2, 3, 4, 5, 6])
    for name in ("vision", "words"):
        table = tables.read_file(new.path / "features" / name / "quarantine.parquet", "quarantine")
        ids = (new.images if name == "vision" else new.texts)(["id"])["id"]
        assert table["id"].to_pylist() == [ids[row].as_py() for row in table["row"].to_pylist()]
        assert len(table) == 1


def test_parts_are_merged_for_good(tmp_path):
    a = write_random_store(tmp_path / "a", images=70, captions=2, seed=1, ids="a", card_seed=7)
    b = write_random_store(tmp_path / "b", images=9, captions=3, seed=2, ids="b", card_seed=7, shard_rows=4)
    old = open_store(f"{a.path}+{b.path}")
    compact_store(old.path, tmp_path / "all")
    check_copy(old, open_store(tmp_path / "all"), np.arange(79), np.arange(167))
    assert open_store(tmp_path / "all").lineage[1:] == old.lineage == (a.fingerprint, b.fingerprint)
    compact_store(old.path, tmp_path / "less", drop=["a000069", "b000000"])
    texts = np.setdiff1d(np.arange(167), [138, 139, 140, 141, 142])
    check_copy(old, open_store(tmp_path / "less"), np.setdiff1d(np.arange(79), [69, 70]), texts)


def test_masks_stay_with_their_images(tmp_path):
    for ids in ("q", "r"):
        plan = random_plan(images=4, captions=0).model_copy(update={"masks": True})
        pictures, words = random_tables(images=4, captions=0, classes=np.arange(4), ids=ids)
        rows = [{"image": i, "png": f"{ids}{i}".encode()} for i in (0, 1, 3)]
        masks = [pa.Table.from_pylist(rows, schema=tables.MASKS)]
        create_store(tmp_path / ids, plan, images=[pictures], texts=[words], masks=masks)
    compact_store(f"{tmp_path}/q+{tmp_path}/r", tmp_path / "new", drop=["q000000", "r000002"])
    found = tables.read_table(tmp_path / "new", "masks").to_pylist()
    assert [(m["image"], m["png"]) for m in found] == [
        (0, b"q1"),
        (2, b"q3"),
        (3, b"r0"),
        (4, b"r1"),
        (5, b"r3"),
    ]
    compact_store(tmp_path / "q", tmp_path / "none", drop=["q000000", "q000001", "q000003"])
    assert not open_store(tmp_path / "none").plan.masks
    assert verify_store(tmp_path / "none").findings == ()


class _Stopped(BaseException):
    """Like a kill: nothing in the library catches it."""


def test_killed_anywhere_there_is_no_new_store_and_going_on_gives_the_same_bytes(kit, tmp_path):
    old = write_random_store(tmp_path / "a", images=70, captions=1, shard_rows=32)
    arguments = {"drop": ["s000000", "s000069"]}
    passed = []
    with failpoints.listening(passed.append):
        compact_store(old.path, tmp_path / "whole", **arguments)
    wanted = kit.tree(tmp_path / "whole")
    for stop in [*range(0, len(passed) - 4, 23), *range(len(passed) - 4, len(passed))]:
        place = tmp_path / f"at{stop}"
        left = stop

        def die(name):
            nonlocal left
            left -= 1
            if left < 0:
                raise _Stopped

        with pytest.raises(_Stopped), failpoints.listening(die):
            compact_store(old.path, place, **arguments)
        assert not place.exists() or kit.tree(place) == wanted
        compact_store(old.path, place, **arguments)
        assert kit.tree(place) == wanted
        assert not place.with_name(f"{place.name}.unfinished").exists()


def test_running_it_again_changes_nothing_and_another_drop_is_refused(kit, tmp_path):
    old = write_random_store(tmp_path / "a", images=20)
    report = compact_store(old.path, tmp_path / "new", drop=["s000001"])
    before = kit.tree(tmp_path / "new")
    assert compact_store(old.path, tmp_path / "new", drop=["s000001"]) == report
    assert kit.tree(tmp_path / "new") == before
    with pytest.raises(StoreError, match="another store is at this place"):
        compact_store(old.path, tmp_path / "new", drop=["s000002"])


def test_one_that_is_just_too_late_leaves_nothing(kit, tmp_path, monkeypatch):
    old = write_random_store(tmp_path / "a", images=20)
    report = compact_store(old.path, tmp_path / "new", drop=["s000001"])
    before = kit.tree(tmp_path)
    first = iter([False])
    monkeypatch.setattr(compact, "is_store", lambda place: next(first, True))
    monkeypatch.setattr(compact, "_refuse_place", lambda opened, place: None)
    assert compact_store(old.path, tmp_path / "new", drop=["s000001"]) == report
    assert kit.tree(tmp_path) == before
    assert not (tmp_path / "new.unfinished").exists()


def test_what_another_compact_left_is_not_touched(tmp_path):
    old = write_random_store(tmp_path / "a", images=20)

    def die(name):
        if "words" in name:
            raise _Stopped

    with pytest.raises(_Stopped), failpoints.listening(die):
        compact_store(old.path, tmp_path / "new", drop=["s000001"])
    with pytest.raises(MismatchError, match=r"(?s)new\.unfinished.*remove the folder"):
        compact_store(old.path, tmp_path / "new", drop=["s000002"])


def test_refusals_name_what_is_wrong(tmp_path):
    a = write_random_store(tmp_path / "a", images=20)
    write_random_store(tmp_path / "b", images=5, ids="b", captions=1, card_seed=3)
    (tmp_path / "full").mkdir()
    cases = [
        ({"drop": ["s000001", "nobody"]}, tmp_path / "n", UsageError, r"(?s)not there.*'nobody'"),
        ({"drop": a.images(["id"])["id"].to_pylist()}, tmp_path / "n", UsageError, "no row would be left"),
        ({}, tmp_path / "a", UsageError, "cannot be the old one"),
        ({}, tmp_path / "a" / "features" / "new", UsageError, "nor lie in it"),
        ({}, tmp_path / "full", StoreError, "something at this place"),
        ({"features": ["visio"]}, tmp_path / "n", StoreError, "did you mean 'vision'"),
        (
            {"drop": a.texts(["id"])["id"].to_pylist()},
            tmp_path / "n",
            UsageError,
            r"(?s)no row of the table 'texts' would be left.*--feature",
        ),
    ]
    for options, to, kind, said in cases:
        with pytest.raises(kind, match=said):
            compact_store(a.path, to, **options)
        assert not (tmp_path / "n").exists()
    with pytest.raises(MismatchError, match="not the same in these stores"):
        compact_store(f"{a.path}+{tmp_path / 'b'}", tmp_path / "n")
    (a.path / "features" / "words" / "manifest.json").unlink()
    with pytest.raises(IncompleteError, match=r"(?s)'words' is not complete.*--feature"):
        compact_store(a.path, tmp_path / "n")
    report = compact_store(a.path, tmp_path / "n", features=["vision"])
    assert report.features == ("vision",)
    assert json.loads(json.dumps(report.to_dict()))["images"] == 20


def test_ids_come_from_text_csv_and_parquet(tmp_path):
    wanted = ["a b", "c,d", "7"]
    (tmp_path / "ids.txt").write_text("\ufeffa b\n\nc,d\n7\na b\n", encoding="utf-8")
    (tmp_path / "ids.csv").write_text('split,id\nx,a b\nx,"c,d"\n,7\n', encoding="utf-8")
    pq.write_table(pa.table({"id": wanted, "score": [1, 2, 3]}), tmp_path / "ids.parquet")
    pq.write_table(pa.table({"name": wanted}), tmp_path / "other.parquet")
    for name in ("ids.txt", "ids.csv", "ids.parquet"):
        assert read_ids(tmp_path / name) == wanted
    (tmp_path / "other.csv").write_text("name\nx\n")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    for name, said in (
        ("other.csv", "no column 'id'"),
        ("other.parquet", r"(?s)no column 'id'.*name"),
        ("none.txt", "no id in the file"),
        ("bad.parquet", "cannot be read"),
        ("gone.txt", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=said):
            read_ids(tmp_path / name)


@pytest.mark.parametrize("policy", ["int8", "merge-4+int8", "pca-8", "cls+mean", "pq-4"])
def test_features_under_every_policy_are_copied_with_what_was_learnt(tmp_path, policy):
    from embedstore.encode.recode import recode_feature

    old = write_random_store(tmp_path / "a", images=60, captions=2)
    recode_feature(old.path, "vision", policy=policy, name="small")
    if policy == "int8":
        recode_feature(old.path, "words", policy=policy, name="short")
    compact_store(old.path, tmp_path / "new", drop=["s000007", "s000059#1"])
    new = open_store(tmp_path / "new")
    images, texts = np.setdiff1d(np.arange(60), [7]), np.setdiff1d(np.arange(120), [14, 15, 119])
    small, was = new["small"], old["small"]
    for array in small.arrays:
        assert same_bits(small.read(array, 0, 59), was.gather(array, images))
    assert same_bits(small.decoded("tokens", range(59)), was.decoded("tokens", images))
    if policy == "int8":
        for name in ("tokens", "scales"):
            found, wanted = new["short"].text_tokens(slice(None), name), old["short"].text_tokens(texts, name)
            assert same_bits(found.tokens, wanted.tokens)
    assert verify_store(new.path).findings == ()


def test_a_compact_of_a_compact_remembers_where_its_rows_came_from(tmp_path):
    old = write_random_store(tmp_path / "a", images=40, captions=1)
    compact_store(old.path, tmp_path / "b", drop=["s000000"])
    compact_store(tmp_path / "b", tmp_path / "c", drop=["s000001"])
    lineage = open_store(tmp_path / "c").lineage
    assert {old.fingerprint, open_store(tmp_path / "b").fingerprint} <= set(lineage)


def test_a_store_of_texts_alone_is_compacted(tmp_path):
    rows = [
        {
            "id": f"t{k}",
            "image": None,
            "text": f"word {k}",
            "language": "en",
            "role": "caption",
            "category": None,
        }
        for k in range(5)
    ]
    plan = random_plan(images=0, captions=0).model_copy(
        update={"texts": 5, "splits": {}, "languages": {"en": 5}, "roles": {"caption": 5}, "masks": False}
    )
    create_store(tmp_path / "pool", plan, texts=[pa.Table.from_pylist(rows, schema=tables.TEXTS)])
    report = compact_store(tmp_path / "pool", tmp_path / "new", drop=["t3"])
    assert (report.images, report.texts) == (0, 4)
    assert open_store(tmp_path / "new").texts(["id"])["id"].to_pylist() == ["t0", "t1", "t2", "t4"]


def test_a_new_store_that_lost_units_is_not_called_done(tmp_path):
    old = write_random_store(tmp_path / "a", images=40, captions=1)
    compact_store(old.path, tmp_path / "new", drop=["s000000"])
    shard = next(p for p in (tmp_path / "new").glob("features/vision/tokens/c/0/*/*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-9])
    verify_store(tmp_path / "new", repair=True)
    with pytest.raises(IncompleteError, match="remove the new store"):
        compact_store(old.path, tmp_path / "new", drop=["s000000"])
