"""`recode`: a new feature from a cached one; the same bytes however often it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedstore.encode import recode_feature
from embedstore.errors import CorruptStoreError, MismatchError, StorageValueError, UsageError
from embedstore.store import FeatureWriter, open_store, verify_store
from embedstore.store.coding import calibration
from embedstore.store.failpoints import listening
from embedstore.testing.stores import write_random_store

ROWS = 70


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("recode") / "store"
    write_random_store(path, images=ROWS, image_tokens=16, image_width=12, shard_rows=16)
    return path


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def tree(store, name):
    folder = store / "features" / name
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize(
    "policy", ["float32", "int8", "merge-4+int8", "pool-2x2+fp8", "pca-4", "pq-4", "cls+mean"]
)
def test_a_recoded_feature_is_whole_and_records_where_it_came_from(store, policy):
    source = open_store(store)["vision"]
    seen = []
    summary = recode_feature(store, "vision", policy=policy, name="small", on_progress=seen.append)
    feature = open_store(store)["small"]
    header = feature.header
    assert header.policy == policy
    assert header.card == source.card
    assert header.origin.feature == "vision"
    assert header.origin.manifest_fingerprint == source.manifest.fingerprint
    assert (header.calibration_sha256 is None) == (policy in ("float32", "pool-2x2+fp8", "cls+mean"))
    assert header.thumbnails == 0
    assert (seen[0].total, seen[-1].done) == (ROWS, ROWS)
    assert summary.to_dict()["smaller"] == round(source.manifest.nbytes / feature.manifest.nbytes, 3)
    assert verify_store(store).sound
    np.testing.assert_allclose(
        feature.decoded("pooled", range(ROWS)), source.decoded("pooled", range(ROWS)), atol=0.3
    )


def test_text_is_recoded_by_its_number_format(store):
    recode_feature(store, "words", policy="merge-8+int8", name="w8")
    opened = open_store(store)
    assert opened["w8"].header.policy == "int8"
    rows = np.array([5, 3, 139, 0, 3])
    found, wanted = opened["w8"].decoded_text(rows), opened["words"].decoded_text(rows)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_allclose(found.tokens, wanted.tokens, atol=0.05)
    alone = [opened["w8"].decoded_text([row]).tokens for row in rows]
    np.testing.assert_array_equal(found.tokens, np.concatenate(alone))


def test_quarantined_rows_keep_their_place(tmp_path):
    path = tmp_path / "store"
    write_random_store(path, images=20, image_tokens=16, image_width=8, shard_rows=8)
    quarantine(path, "vision", [3, 9, 19])
    for policy in ("int8", "fp8", "bfloat16", "merge-2", "pq-2", "cls+mean+fp8"):
        name = policy.replace("+", "-")
        recode_feature(path, "bad", policy=policy, name=name)
        feature = open_store(path)[name]
        for array in ("tokens", "prefix", "pooled"):
            lost = np.isnan(feature.decoded(array, range(20))).reshape(20, -1)
            assert np.flatnonzero(lost.all(axis=1)).tolist() == [3, 9, 19], (policy, array)
            assert np.flatnonzero(lost.any(axis=1)).tolist() == [3, 9, 19], (policy, array)
    assert verify_store(path).sound


def test_a_sample_that_is_too_small_is_refused_before_anything_is_written(tmp_path):
    write_random_store(tmp_path / "store", images=20, image_tokens=4, image_width=8)
    with pytest.raises(StorageValueError, match=r"too few tokens.*\n  found: 80\n"):
        recode_feature(tmp_path / "store", "vision", policy="pq-2", name="small")
    assert not (tmp_path / "store" / "features" / "small").exists()


def quarantine(path, name, bad):
    """Make the feature "bad" out of another one, with some rows lost."""
    from embedstore.documents import QuarantinedRow

    source = open_store(path)[name]
    header = source.header.model_copy(update={"name": "bad"})
    writer = FeatureWriter.open(path, header)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        arrays = {a: source.read(a, rows.start, rows.stop) for a in ("tokens", "prefix", "pooled")}
        lost = [QuarantinedRow(row=r, id=f"s{r:06d}", reason="cut short") for r in bad if r in rows]
        writer.write_unit(unit, arrays, quarantined=lost)
    writer.finish()


@pytest.mark.parametrize("policy", ["pca-4+int8", "merge-4"])
def test_stopped_at_every_effect_it_comes_out_byte_identical(made, tmp_path, policy):
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    recode_feature(whole, "vision", policy=policy, name="small", shard_rows=32)
    wanted, names = tree(whole, "small"), []
    shutil.copytree(made, tmp_path / "counted")
    with listening(names.append):
        recode_feature(tmp_path / "counted", "vision", policy=policy, name="small", shard_rows=32)
    store = tmp_path / "stopped"
    for stop in range(0, len(names), 7):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(made, store)
        left = [stop]

        def hook(_name, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        with listening(hook), pytest.raises(KeyboardInterrupt):
            recode_feature(store, "vision", policy=policy, name="small", shard_rows=32)
        recode_feature(store, "vision", policy=policy, name="small", shard_rows=32)
        assert tree(store, "small") == wanted, names[stop]


RECODE = """
import sys
from embedstore.encode import recode, recode_feature

class Stepping(recode.FeatureWriter):
    def write_unit(self, *args, **kwargs):
        sys.stdin.readline()
        record = super().write_unit(*args, **kwargs)
        print("done", args[0], flush=True)
        return record

recode.FeatureWriter = Stepping
recode_feature(sys.argv[1], "vision", policy="merge-4+int8", name="small")
"""


@pytest.mark.slow
def test_killed_and_run_again_it_comes_out_byte_identical(made, tmp_path):
    shutil.copytree(made, tmp_path / "whole")
    recode_feature(tmp_path / "whole", "vision", policy="merge-4+int8", name="small")
    store = tmp_path / "killed"
    shutil.copytree(made, store)
    process = subprocess.Popen(
        [sys.executable, "-c", RECODE, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process.stdin, process.stdout:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done 0\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert len(list((store / "features" / "small" / "units").glob("*.json"))) == 1
    summary = recode_feature(store, "vision", policy="merge-4+int8", name="small")
    assert 0 < summary.fresh < ROWS
    assert tree(store, "small") == tree(tmp_path / "whole", "small")


@pytest.mark.slow
def test_several_processes_make_one_feature(made, tmp_path):
    code = "import sys; from embedstore.encode import recode_feature as recode; "
    code += "recode(sys.argv[1], 'vision', policy='merge-4+pca-4+int8', name='small')"
    shutil.copytree(made, tmp_path / "alone")
    shutil.copytree(made, tmp_path / "shared")
    recode_feature(tmp_path / "alone", "vision", policy="merge-4+pca-4+int8", name="small")
    command = [sys.executable, "-c", code, str(tmp_path / "shared")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [p.wait() for p in processes] == [0, 0, 0]
    assert tree(tmp_path / "shared", "small") == tree(tmp_path / "alone", "small")


def test_thumbnails_are_no_part_of_the_saving(tmp_path):
    """They stay with the source, so a smaller feature does not save them."""
    path = tmp_path / "store"
    write_random_store(path, images=20, image_tokens=16, image_width=8, shard_rows=8)
    source = open_store(path)["vision"]
    header = source.header.model_copy(update={"name": "seen", "thumbnails": 16})
    writer = FeatureWriter.open(path, header)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        arrays = {a: source.read(a, rows.start, rows.stop) for a in ("tokens", "prefix", "pooled")}
        writer.write_unit(unit, arrays, thumbnails=[b"x" * 5000] * len(rows))
    assert writer.finish().nbytes > 2 * source.manifest.nbytes
    for name in ("vision", "seen"):
        summary = recode_feature(path, name, policy="int8", name=f"{name}8")
        assert summary.source_nbytes == source.manifest.nbytes


def test_run_again_nothing_is_made(store):
    recode_feature(store, "vision", policy="int8", name="small")
    before = tree(store, "small")
    assert recode_feature(store, "vision", policy="int8", name="small").fresh == 0
    assert tree(store, "small") == before


def test_another_feature_of_that_name_is_never_touched(store):
    recode_feature(store, "vision", policy="int8", name="small")
    before = tree(store, "small")
    for other in ("fp8", "merge-4"):
        found = rf"differs from the stored one\n  found: policy: stored 'int8', now '{other}'\n.*--as NAME"
        with pytest.raises(MismatchError, match=found):
            recode_feature(store, "vision", policy=other, name="small")
    with pytest.raises(MismatchError, match="the feature of this name differs"):
        recode_feature(store, "vision", policy="int8", name="words")
    assert tree(store, "small") == before
    assert not (store / "features" / "words" / "calibration.safetensors").exists()


def test_the_calibration_of_another_recoding_is_not_taken(store):
    folder = store / "features" / "small"
    recode_feature(store, "vision", policy="int8", name="small")
    data = (folder / "calibration.safetensors").read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "calibration.safetensors").write_bytes(data)
    with pytest.raises(MismatchError, match=r"(?s)calibration of another feature.*int8.*pca-4.*another name"):
        recode_feature(store, "vision", policy="pca-4", name="small")


def test_a_damaged_calibration_is_found(store):
    recode_feature(store, "vision", policy="int8", name="small")
    path = store / "features" / "small" / "calibration.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(
        CorruptStoreError, match=r"(?s)small/calibration\.safetensors.*not the one.*run the command"
    ):
        open_store(store)["small"].decoded("tokens", [0])
    report = verify_store(store)
    assert [f.where for f in report.findings] == ["features/small/calibration.safetensors"]
    assert report.remaining == 1
    path.unlink()
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        open_store(store)["small"].decoded("tokens", [0])


def test_shrunk_tokens_are_not_shrunk_again(store):
    recode_feature(store, "vision", policy="merge-4", name="small")
    with pytest.raises(UsageError, match=r"shrunk already\n  found: merge-4"):
        recode_feature(store, "small", policy="int8", name="again")
    recode_feature(store, "vision", policy="fp8", name="eight")
    recode_feature(store, "eight", policy="merge-2", name="from-eight")
    assert open_store(store)["from-eight"].header.origin.feature == "eight"


def test_several_stores_at_once_are_refused(store):
    with pytest.raises(UsageError, match="recode works on one store"):
        recode_feature(Path(f"{store}+{store}"), "vision", policy="int8", name="small")


def test_rows_to_learn_from_are_fixed_by_the_plan(made):
    plan = open_store(made).plan
    first = calibration.sample_rows(plan, rows=100_000, tokens=196)
    assert len(first) == 335
    assert (np.diff(first) > 0).all()
    np.testing.assert_array_equal(first, calibration.sample_rows(plan, rows=100_000, tokens=196))
    other = calibration.sample_rows(plan.model_copy(update={"seed": 1}), rows=100_000, tokens=196)
    assert not np.array_equal(first, other)
    assert calibration.sample_rows(plan, rows=5, tokens=1).tolist() == [0, 1, 2, 3, 4]
    assert len(calibration.sample_rows(plan, rows=10**9, tokens=1)) == calibration.MOST_ROWS


def test_the_header_of_an_older_store_keeps_its_fingerprint(made):
    header = open_store(made).header("vision")
    text = json.loads((made / "features" / "vision" / "header.json").read_text())
    assert not {"origin", "calibration_sha256"} & set(text)
    assert not {"origin", "calibration_sha256"} & set(header.model_dump())
