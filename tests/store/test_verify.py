from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pytest

from embedstore.store import FeatureWriter, create_store, layout, open_store, tables, verify_store
from embedstore.testing.stores import random_plan, random_tables, write_random_store


def flip(path, at=-200):
    raw = bytearray(path.read_bytes())
    raw[max(at, -len(raw))] ^= 1
    path.write_bytes(raw)


def test_a_whole_store_is_sound_and_everything_is_read(whole, kit):
    seen = []
    report = verify_store(whole, on_progress=lambda *step: seen.append(step))
    assert report.sound
    assert report.findings == ()
    assert seen == [("vision", 1, 2), ("vision", 2, 2), ("words", 1, 2), ("words", 2, 2)]
    assert (report.features, report.units, report.files) == (2, 4, 2 * 5 + 2 * 4)
    store = open_store(whole)
    assert report.nbytes == store["vision"].manifest.nbytes + store["words"].manifest.nbytes
    assert json.loads(report.to_json())["sound"] is True


DAMAGE = {
    "a flipped bit in tokens": lambda f: flip(f / "vision/tokens/c/0/0/0", 3),
    "a flipped bit in an index": lambda f: flip(f / "vision/pooled/c/0/0", -9),
    "a flipped bit in a thumbnail": lambda f: flip(f / "vision/thumbnails/00000000.parquet", 10),
    "a shard cut short": lambda f: os.truncate(f / "vision/prefix/c/0/0/0", 20),
    "a shard that is gone": lambda f: (f / "vision/status/c/0").unlink(),
    "a shard of another unit": lambda f: (f / "vision/pooled/c/0/0").write_bytes(
        (f / "vision/pooled/c/1/0").read_bytes()
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_and_only_that_unit_is_made_again(whole, kit, case):
    before = kit.tree(whole)
    DAMAGE[case](whole / "features")
    report = verify_store(whole)
    assert not report.sound
    assert {(f.feature, f.unit) for f in report.corrupt} == {("vision", 0)}
    repaired = verify_store(whole, repair=True)
    assert repaired.sound
    (said,) = repaired.repaired
    assert said.startswith("vision: units 0 are taken out, 1 stay; run the same embedstore encode command")
    found = verify_store(whole)
    assert [f.kind for f in found.findings] == ["incomplete"]
    header = open_store(whole).header("vision")
    writer = FeatureWriter.open(whole, header)
    assert writer.missing_units() == [0]
    kit.write_missing(writer)
    assert kit.tree(whole) == before


def test_a_flipped_bit_names_chunk_and_rows(whole):
    flip(whole / "features/vision/tokens/c/1/0/0", 5)
    (found,) = verify_store(whole).findings
    assert found.where == "features/vision/tokens/c/1/0/0"
    assert "chunk 0: rows 4 to 7" in found.problem
    assert str(found).startswith("corrupt: features/vision/tokens")


def test_temporary_files_are_told_and_removed_by_repair_only(whole, kit):
    before = kit.tree(whole)
    left = [
        whole / ".plan.json.0123456789abcdef.tmp",
        whole / "features/vision/pooled/c/.0.00000000000000aa.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    report = verify_store(whole)
    assert report.sound
    assert {f.kind for f in report.findings} == {"leftover"}
    assert all(p.exists() for p in left)
    assert len(verify_store(whole, repair=True).repaired) == 2
    assert kit.tree(whole) == before


def test_zarr_metadata_is_compared_and_written_again(whole, kit):
    before = kit.tree(whole)
    (whole / "features/vision/tokens/zarr.json").write_text("{}")
    (whole / "zarr.json").unlink()
    report = verify_store(whole)
    assert {f.where for f in report.corrupt} == {"features/vision/tokens/zarr.json", "zarr.json"}
    assert verify_store(whole, repair=True).sound
    assert kit.tree(whole) == before


def test_damaged_unit_tables_mean_that_all_units_are_made_again(whole, kit):
    before = kit.tree(whole)
    (whole / "features/vision/units.parquet").write_bytes(b"nothing")
    assert [f.feature for f in verify_store(whole).corrupt] == ["vision"]
    report = verify_store(whole, repair=True)
    (said,) = report.repaired
    assert said.startswith("vision: units all are taken out, 0 stay; run the same embedstore encode command")
    kit.write_missing(FeatureWriter.open(whole, open_store(whole).header("vision")))
    assert kit.tree(whole) == before


def test_a_quarantine_that_was_changed_is_found(whole):
    path = whole / "features/vision/quarantine.parquet"
    name = tables.write_file(path, "quarantine", [tables.SCHEMAS["quarantine"].empty_table()])
    name.replace(path)
    (found,) = verify_store(whole).corrupt
    assert "manifest does not agree" in found.problem


def test_a_damaged_header_cannot_be_repaired(whole):
    (whole / "features/vision/header.json").write_text("{}")
    report = verify_store(whole, repair=True)
    assert not report.sound
    assert report.remaining == 1
    assert "FeatureHeader is not valid" in report.corrupt[0].problem


def test_a_header_of_another_plan_cannot_be_repaired_and_nothing_is_dropped(whole, kit):
    for name in ("header.json", "manifest.json"):
        path = whole / "features/vision" / name
        path.write_text(path.read_text().replace('"rows": 7', '"rows": 6'))
    before = kit.tree(whole)
    report = verify_store(whole, repair=True)
    assert not report.sound
    assert "header's rows do not follow" in report.corrupt[0].problem
    assert kit.tree(whole) == before


def test_a_begun_feature_is_incomplete_and_its_bad_records_are_corrupt(tmp_path, kit):
    plan = random_plan(images=kit.images, captions=2)
    pictures, words = random_tables(images=kit.images, captions=2, classes=np.zeros(kit.images, np.int64))
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    header = kit.headers(plan)[0]
    writer = FeatureWriter.open(tmp_path / "s", header)
    for unit in (0, 1):
        arrays, quarantined, thumbnails = kit.unit_values(header, unit)
        writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
    report = verify_store(tmp_path / "s")
    assert report.sound
    assert [f.kind for f in report.findings] == ["incomplete"]
    assert "2 of 2 units" in report.findings[0].problem
    folder = tmp_path / "s/features/vision"
    layout.record(folder, 0).write_text("{}")
    flip(folder / "tokens/c/1/0/0", 3)
    report = verify_store(tmp_path / "s")
    assert {f.unit for f in report.corrupt} == {0, 1}
    assert verify_store(tmp_path / "s", repair=True).sound
    assert writer.missing_units() == [0, 1]


def _with_tables(tmp_path, change):
    """A store whose tables follow the plan's counts, but were changed."""
    plan = random_plan(images=10, captions=2)
    pictures, words = random_tables(images=10, captions=2, classes=np.zeros(10, np.int64))
    pictures, words = pictures.to_pylist(), words.to_pylist()
    change(pictures, words)
    create_store(
        tmp_path / "s",
        plan,
        images=[pa.Table.from_pylist(pictures, schema=tables.IMAGES)],
        texts=[pa.Table.from_pylist(words, schema=tables.TEXTS)],
    )
    return [f.problem for f in verify_store(tmp_path / "s").corrupt]


CHANGES = {
    "ids come more than once": lambda p, w: p[3].update(id=p[4]["id"]),
    "splits: the plan says": lambda p, w: p[0].update(split="test"),
    "languages: the plan says": lambda p, w: w[0].update(language="de"),
    "do not stand together": lambda p, w: w.insert(0, w.pop(9)),
    "image row that is not there": lambda p, w: w[-1].update(image=10),
    "is not of its image": lambda p, w: w[2].update(id="other#0"),
}


@pytest.mark.parametrize("words", CHANGES)
def test_tables_that_do_not_fit_together_are_found(tmp_path, words):
    assert any(words in problem for problem in _with_tables(tmp_path, CHANGES[words]))


def test_texts_without_an_image_may_stand_anywhere(tmp_path):
    def orphan(pictures, words):
        words[4].update(image=None, id="free#0")
        words[5].update(image=None, id="free#1")

    assert _with_tables(tmp_path, orphan) == []


def test_a_table_that_cannot_be_read_is_corrupt(whole):
    layout.part(whole, "texts", 0).write_bytes(b"PAR1")
    (found,) = (f for f in verify_store(whole, repair=True).corrupt if f.feature is None)
    assert "cannot be read" in found.problem


def test_a_record_that_a_loss_of_power_cut_short_is_no_damage(tmp_path):
    store = write_random_store(tmp_path / "store")
    (store.path / "features/vision/manifest.json").unlink()
    units = store.path / "features/vision/units"
    units.mkdir()
    (units / "00000000.json").write_bytes(b"")
    report = verify_store(store.path)
    assert report.sound
    assert {f.kind for f in report.findings} == {"incomplete"}
