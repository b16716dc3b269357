"""What may go wrong around a store: a full disk, a locked folder, newer formats, links out, huge numbers."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import (
    CorruptStoreError,
    DiskFullError,
    EmbedstoreError,
    FormatVersionError,
    StoreError,
)
from embedstore.store import FeatureWriter, create_store, files, open_store, space, store_info, verify_store
from embedstore.testing.stores import random_plan, random_tables, write_random_store


class _SmallDisk:
    """A write layer with room for so many bytes; what is removed is given back."""

    def __init__(self, monkeypatch, room):
        self.room, self._write, self._writev = room, os.write, os.writev
        self._unlink = Path.unlink
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: self.unlink(path, missing_ok))
        monkeypatch.setattr(space, "free_nbytes", lambda place: self.room)

    def writev(self, handle, pieces):
        wanted = sum(len(p) for p in pieces)
        if wanted > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self._writev(handle, pieces)
        self.room -= done
        return done

    def unlink(self, path, missing_ok):
        if path.exists():
            self.room += path.stat().st_size
        self._unlink(path, missing_ok=missing_ok)


def _planned(path, kit):
    plan = random_plan(images=kit.images, captions=kit.captions)
    pictures, words = random_tables(images=kit.images, captions=2, classes=np.arange(kit.images) % 4)
    create_store(path, plan, images=[pictures], texts=[words])
    return kit.headers(plan)


def test_a_full_disk_names_what_is_missing_and_what_would_fit(kit, tmp_path, monkeypatch):
    _, words = _planned(tmp_path / "s", kit)
    kit.run_whole(tmp_path / "reference")
    wanted = kit.tree(tmp_path / "reference")
    with monkeypatch.context() as patch:
        disk = _SmallDisk(patch, 1 << 20)
        writer = FeatureWriter.open(tmp_path / "s", words)
        arrays, quarantined, thumbnails = kit.unit_values(words, 0)
        writer.write_unit(0, arrays, quarantined=quarantined, thumbnails=thumbnails)
        disk.room = 100
        with pytest.raises(DiskFullError) as full:
            kit.write_missing(writer)
        said = str(full.value)
        assert "1 of 2 units of 'words' are not stored" in said
        assert "under the policy float32" in said
        assert "run the same command again: what is finished stays" in said
        assert not list((tmp_path / "s").rglob("*.tmp"))
        report = verify_store(tmp_path / "s")
        assert report.sound
        assert {f.kind for f in report.findings} == {"incomplete"}
    kit.run_whole(tmp_path / "s")
    assert kit.tree(tmp_path / "s") == wanted


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.6, "encode with --policy float16"),
        (0.3, "encode with --policy int8"),
        (0.0, "no policy would make it fit"),
    ],
)
def test_the_policy_that_would_fit_is_named(tmp_path, share, said, monkeypatch):
    store = write_random_store(
        tmp_path / "s",
        images=64,
        captions=1,
        policy="float32",
        image_tokens=64,
        image_width=32,
        text_width=64,
    )
    header = store.header("vision")
    whole = store.feature_nbytes("vision")
    monkeypatch.setattr(space, "free_nbytes", lambda place: int(share * whole))
    problem = space.disk_full(store.path, header, missing=range(header.units), tokens_per_row=0)
    assert said in str(problem)
    assert space.size(whole) + " needed" in str(problem)


@pytest.mark.parametrize("at", range(0, 38, 4))
def test_a_disk_that_fills_at_any_write_leaves_a_valid_store(kit, tmp_path, monkeypatch, at):
    kit.run_whole(tmp_path / "reference")
    left = at

    def full(handle, pieces):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writev(handle, pieces)

    writev = os.writev
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(DiskFullError):
            kit.run_whole(tmp_path / "s")
    assert not list((tmp_path / "s").rglob("*.tmp"))
    if (tmp_path / "s" / "plan.json").exists():
        assert verify_store(tmp_path / "s").sound
    kit.run_whole(tmp_path / "s")
    assert kit.tree(tmp_path / "s") == kit.tree(tmp_path / "reference")


def test_a_small_real_disk_fills_and_the_work_goes_on_when_it_grows(kit, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k,nr_inodes=10k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(DiskFullError, match="the disk is full"):
            kit.run_whole(disk / "s")
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        kit.run_whole(disk / "s")
        kit.run_whole(tmp_path / "reference")
        assert kit.tree(disk / "s") == kit.tree(tmp_path / "reference")
        assert verify_store(disk / "s").findings == ()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_said_so(kit, tmp_path, monkeypatch, reason):
    kit.run_whole(tmp_path / "s")
    (tmp_path / "s/features/vision/manifest.json").unlink()
    opened = os.open

    def locked(path, flags, *more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(reason, os.strerror(reason))
        return opened(path, flags, *more)

    def no_folder(path, **options):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "open", locked)
    with pytest.raises(
        StoreError, match=r"(?s)cannot be written: (Permission|Read-only).*where you may write"
    ):
        kit.run_whole(tmp_path / "s")
    assert store_info(tmp_path / "s").features[1].complete
    assert open_store(tmp_path / "s")["words"].rows == 14
    assert verify_store(tmp_path / "s").sound
    monkeypatch.setattr(Path, "mkdir", no_folder)
    with pytest.raises(StoreError, match="cannot be written"):
        kit.run_whole(tmp_path / "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_store_in_a_read_only_folder_is_read(kit, tmp_path):
    kit.run_whole(tmp_path / "s")
    for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert verify_store(tmp_path / "s").findings == ()
        with pytest.raises(StoreError, match="cannot be written"):
            files.replace(tmp_path / "s" / "x", b"")
    finally:
        for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
            path.chmod(0o755)


def _changed(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plan.json", lambda d: d.update(format_version=2, unheard_of=1)),
        ("features/vision/header.json", lambda d: d.update(format_version=7)),
        ("features/vision/manifest.json", lambda d: d["header"].update(format_version=2, later=True)),
        ("features/vision/manifest.json", lambda d: d.update(format_version=2, sums={})),
    ],
)
def test_a_newer_format_is_refused_with_the_version_that_reads_it(whole, name, change):
    _changed(whole / name, change)
    with pytest.raises(
        FormatVersionError,
        match=r"(?s)format version [27].*format versions 1 to 1, which embedstore 0.* reads.*"
        r"install an embedstore that reads format version [27]",
    ):
        open_store(whole)["vision"]


LINKED = [
    "plan.json",
    "tables/images",
    "tables/texts/part-00000.parquet",
    "features/vision",
    "features/vision/header.json",
    "features/vision/manifest.json",
    "features/vision/quarantine.parquet",
    "features/vision/thumbnails",
    "features/vision/tokens",
    "features/vision/tokens/c/1",
    "features/vision/pooled/c/0/0",
]


@pytest.mark.parametrize("name", LINKED)
def test_links_that_lead_out_are_not_followed(whole, tmp_path, name):
    target = tmp_path / "elsewhere"
    shutil.move(whole / name, target)
    (whole / name).symlink_to(target)
    with pytest.raises(CorruptStoreError, match=r"(?s)link|cannot be opened"):
        _read_everything(whole)
    try:
        assert not verify_store(whole).sound
    except CorruptStoreError as bad:
        assert "leads out of the store" in str(bad)  # noqa: PT017 - either way is a refusal


def _read_everything(path):
    opened = open_store(path)
    opened.images()
    opened.texts()
    opened.thumbnails(range(7))
    for name in opened.features():
        feature = opened[name]
        for array in feature.arrays:
            if not (name == "words" and array == "tokens"):
                feature.read(array, 0, feature.rows)
    opened["words"].text_tokens(slice(None))
    store_info(path)


def test_a_store_may_itself_be_reached_by_a_link(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole)
    _read_everything(tmp_path / "link")
    assert verify_store(tmp_path / "link").findings == ()


def _huge(path, table, count, **fields):
    """Make a store's documents agree on numbers of which its files know nothing."""
    plan = json.loads((path / "plan.json").read_text())
    plan[table] = count
    (path / "plan.json").write_text(json.dumps(plan))
    fingerprint = open_store(path).fingerprint
    for name, of in (("vision", "images"), ("words", "texts")):
        header_path = path / "features" / name / "header.json"
        header = json.loads(header_path.read_text())
        header["plan_fingerprint"] = fingerprint
        if of == table:
            header |= {"rows": count, "shard_rows": 1 << 50, "units": -(-count // (1 << 50)), **fields}
            for array in header["arrays"]:
                packed = name == "words" and array["name"] == "tokens"
                shard = (1 << 50) * (header["max_tokens"] if packed else 1)
                array["shard"] = shard
                array["shape"][0] = shard * header["units"] if packed else count
        header_path.write_text(json.dumps(header))
        manifest_path = header_path.with_name("manifest.json")
        manifest = json.loads(manifest_path.read_text())
        manifest["header"] = header
        manifest_path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(("table", "name"), [("images", "vision"), ("texts", "words")])
def test_a_promised_number_of_rows_costs_no_memory(whole, table, name):
    _huge(whole, table, 1 << 49)
    with pytest.raises(CorruptStoreError, match=f"the plan says {1 << 49} {table}, the table holds"):
        open_store(whole)[name]
    assert not verify_store(whole).sound


def test_promised_places_cost_no_memory(tmp_path):
    """A header whose shape nothing but the shard's real size can disprove."""
    store = write_random_store(tmp_path / "s", images=40, captions=1)
    vision = store["vision"]
    array = vision.array("tokens")
    wide = array.spec.model_copy(update={"shape": (40, 1 << 20, 1 << 20)})
    crafted = type(array)(vision.path, wide)
    for read in (lambda: crafted.read(0, 40), lambda: crafted.gather([3, 1])):
        with pytest.raises(CorruptStoreError, match=r"(?s)promises more than the shard holds.*bytes"):
            read()
    long = array.spec.model_copy(update={"shape": (1 << 50, 9, 16), "shard": 1 << 40})
    with pytest.raises(CorruptStoreError, match="promises more"):
        type(array)(vision.path, long).read(0, 1 << 50)
    words = store["words"]
    words._lengths = np.full(40, (1 << 31) - 1, np.int32)
    with pytest.raises(CorruptStoreError, match="promises more"):
        words.text_tokens(slice(None))


def test_documents_and_tables_of_impossible_size_are_refused(whole, monkeypatch):
    monkeypatch.setattr("embedstore.documents.base.MOST_DOCUMENT_BYTES", 100)
    with pytest.raises(CorruptStoreError, match="the document is too large"):
        open_store(whole)
    monkeypatch.undo()
    monkeypatch.setattr("embedstore.store.tables._MOST_ROWS_A_BYTE", 1e-4)
    with pytest.raises(CorruptStoreError, match="cannot hold so many rows"):
        open_store(whole).images()
    with pytest.raises(CorruptStoreError, match="cannot hold so many rows"):
        open_store(whole)["vision"]


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_nothing_in_a_store_is_unpickled_or_executed(whole, tmp_path, monkeypatch):
    """Every file in turn becomes a pickle, or a module, that would leave a trace."""
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(_Bomb())
    for extra in ("conftest.py", "__init__.py", "sitecustomize.py", "features/vision/code.py"):
        (whole / extra).write_text("import os; os.system('touch exploded')")
    for path in sorted(p for p in whole.rglob("*") if p.is_file() and p.suffix != ".py"):
        kept = path.read_bytes()
        path.write_bytes(bomb)
        try:
            _read_everything(whole)
        except EmbedstoreError:
            pass
        else:
            assert path.name in ("zarr.json", "units.parquet"), f"{path} is read without being looked at"
        path.write_bytes(kept)
    assert not (tmp_path / "exploded").exists()


def test_reading_a_store_imports_no_pickle_loader_and_opens_nothing_for_writing(whole):
    """In a process that counts: no pickle.load, no exec of a store's file, no write, no network."""
    script = (
        "import sys, pathlib\n"
        "from embedstore.store import open_store, verify_store\n"
        "import embedstore.store.tables, PIL.Image\n"
        "seen = []\n"
        "root = sys.argv[1]\n"
        "def hook(event, args):\n"
        "    if event in ('pickle.find_class', 'os.system', 'subprocess.Popen', 'socket.connect'):\n"
        "        seen.append((event, args))\n"
        "    if event == 'open' and str(args[0]).startswith(root) and args[2] & 3:\n"
        "        seen.append((event, args))\n"
        "    if event in ('exec', 'compile') and root in str(args):\n"
        "        seen.append((event, args))\n"
        "sys.addaudithook(hook)\n"
        "store = open_store(root)\n"
        "for name in store.features():\n"
        "    store[name].read('pooled', 0, store[name].rows)\n"
        "assert verify_store(root).findings == ()\n"
        "print(seen)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(whole)], capture_output=True, text=True, env=os.environ, check=True
    )
    assert run.stdout.strip() == "[]"
