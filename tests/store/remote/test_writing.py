"""A remote store written: byte for byte the local one, stopped anywhere and gone on with."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedstore.errors import MismatchError, RemoteError, StoreError, UsageError
from embedstore.store import FeatureWriter, open_store, store_info, verify_store
from embedstore.store.failpoints import listening
from embedstore.store.remote import plan as remote_plan
from embedstore.store.remote.objects import Remote, Stat
from embedstore.store.remote.plan import written_at


@pytest.fixture
def wanted(whole, tools):
    """The files of the same store written here."""
    return tools.local_files(whole)


def test_a_store_written_to_s3_is_the_local_one_byte_for_byte(s3, kit, tools, wanted, cache):
    tools.write_remote(s3.url, kit)
    assert s3.objects() == wanted
    assert verify_store(s3.url).sound
    # Nothing of what was written stays here.
    assert not list((cache / "stores" / "own").iterdir())


class _Stopped(BaseException):
    """As a kill: nothing of the writer may handle it."""


def test_stopped_at_any_effect_it_is_gone_on_with(memory, kit, tools, wanted):
    """Before or after uploads of every kind, and elsewhere; the bytes are those of an undisturbed run."""
    names = []
    with listening(names.append):
        tools.write_remote(memory.url, kit)
    assert memory.objects() == wanted
    uploads = [name for name in names if " upload " in name]
    assert len(uploads) > 40
    # Every third of them is of each kind in turn, before it or after it.
    places = [i for i, name in enumerate(names) if " upload " in name][::3] + list(range(5, len(names), 61))
    for stop in places:
        for name in memory.objects():
            memory.remove(name)
        at = iter(range(len(names)))

        def hook(_name, at=at, stop=stop):
            if next(at) == stop:
                raise _Stopped

        with listening(hook), pytest.raises(_Stopped):
            tools.write_remote(memory.url, kit)
        before = memory.objects()
        # What is there is right, and a record or a manifest is there only with all that it names.
        assert {n: d for n, d in before.items() if "/units/" not in n}.items() <= wanted.items()
        for feature in ("vision", "words"):
            if f"features/{feature}/manifest.json" in before:
                assert {n for n in wanted if n.startswith(f"features/{feature}/")} <= before.keys()
        tools.write_remote(memory.url, kit)
        assert memory.objects() == wanted


def test_what_is_uploaded_is_not_made_again(memory, kit, tools, monkeypatch):
    made, real = [], FeatureWriter.write_unit

    def write_unit(self, unit, *arguments, **named):
        made.append((self.header.name, unit))
        if len(made) == 3:
            raise _Stopped
        return real(self, unit, *arguments, **named)

    monkeypatch.setattr(FeatureWriter, "write_unit", write_unit)
    with pytest.raises(_Stopped):
        tools.write_remote(memory.url, kit)
    info = {f.header.name: (f.units_done, f.complete) for f in store_info(memory.url).features}
    assert info["vision"] == (2, True)
    sent, upload = [], Remote.upload

    def count(self, name, path):
        sent.append(name)
        upload(self, name, path)

    monkeypatch.setattr(Remote, "upload", count)
    tools.write_remote(memory.url, kit)
    assert made[3:] == [("words", 0), ("words", 1)]
    assert not [name for name in sent if "vision" in name or name.startswith("tables")]
    sent.clear()
    tools.write_remote(memory.url, kit)
    assert not sent


def test_a_record_whose_files_have_another_size_is_not_believed(memory, kit, tools, wanted, monkeypatch):
    real = FeatureWriter.finish
    monkeypatch.setattr(FeatureWriter, "finish", lambda self: None)
    tools.write_remote(memory.url, kit)
    memory.put("features/vision/tokens/c/0/0/0", b"short")
    memory.remove("features/words/pooled/c/1/0")
    memory.put("features/words/units/00000000.json", b"{")
    monkeypatch.setattr(FeatureWriter, "finish", real)
    tools.write_remote(memory.url, kit)
    assert memory.objects() == wanted


WRITE = """
import importlib.util, sys
from embedstore.store import FeatureWriter
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
kit = load("kit", sys.argv[2]).Kit
real = FeatureWriter.write_unit
def write_unit(self, unit, *arguments, **named):
    sys.stdin.readline()
    record = real(self, unit, *arguments, **named)
    print("done", self.header.name, unit, flush=True)
    return record
FeatureWriter.write_unit = write_unit
load("tools", sys.argv[3]).write_remote(sys.argv[1], kit)
"""


@pytest.fixture
def start():
    """Start a process that writes the store, each unit when it is told to."""
    here = Path(__file__).parent

    def run(url):
        command = [sys.executable, "-c", WRITE, url, str(here.parent / "conftest.py")]
        command.append(str(here / "conftest.py"))
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return run


def end(process):
    out, _ = process.communicate("\n" * 20)
    assert process.returncode == 0
    return out


def step(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("done")


def test_kill_9_in_the_middle_and_resume_on_s3(s3, start, wanted, cache):
    for units in (1, 2):
        process = start(s3.url)
        for _ in range(units):
            step(process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdin.close()
        process.stdout.close()
    there = s3.objects()
    assert "features/words/header.json" in there
    assert "features/words/manifest.json" not in there
    assert end(start(s3.url)).count("done") == 1
    assert s3.objects() == wanted
    # What the killed ones left here was removed by those that came after.
    assert not list((cache / "stores" / "own").iterdir())


def test_two_processes_write_one_store_at_once(s3, start, wanted):
    writers = [start(s3.url), start(s3.url)]
    for writer in writers:
        step(writer)
    for writer in writers:
        end(writer)
    assert s3.objects() == wanted
    assert verify_store(s3.url).sound


def test_a_plan_that_another_publishes_in_between_is_not_foreign(memory, kit, tools, monkeypatch):
    """The other process is done just after this one has looked for a plan."""
    look = remote_plan._same
    others = []

    def first_look(mirror, plan):
        found = look(mirror, plan)
        if not others:
            others.append(mirror)
            tools.write_remote(memory.url, kit)
        return found

    monkeypatch.setattr(remote_plan, "_same", first_look)
    tools.write_remote(memory.url, kit)
    assert others
    assert verify_store(memory.url).sound


def test_a_second_writer_believes_the_first(memory, kit, tools, wanted):
    """Both opened the feature when nothing was there; the second finds each unit, or the whole."""
    tools.write_remote(memory.url, kit)
    for name in memory.objects():
        if name.startswith("features/vision/") and "json" not in name.rpartition(".")[2]:
            memory.remove(name)
    memory.remove("features/vision/manifest.json")
    header = open_store(memory.url).header("vision")
    with written_at(memory.url, what="a test") as one, written_at(memory.url, what="a test") as two:
        first, second = FeatureWriter.open(one, header), FeatureWriter.open(two, header)
        assert first.missing_units() == second.missing_units() == [0, 1]
        kit.write_missing(first)
        arrays, quarantined, thumbnails = kit.unit_values(header, 1)
        second.write_unit(1, arrays, quarantined=quarantined, thumbnails=thumbnails)
        assert second.finish() == first.finish()
    assert memory.objects() == wanted


def test_another_plan_and_foreign_objects_are_refused(memory, kit, tools):
    memory.put("holiday.jpg", b"x")
    with pytest.raises(StoreError, match="not empty and holds no store") as told:
        tools.write_remote(memory.url, kit)
    assert "holiday.jpg" in str(told.value)
    memory.remove("holiday.jpg")
    tools.write_remote(memory.url, kit)

    class Other(kit):
        captions = 1

    with pytest.raises(MismatchError, match="the plan differs"):
        tools.write_remote(memory.url, Other)


def test_another_feature_of_this_name_is_refused(memory, kit, tools):
    tools.write_remote(memory.url, kit)
    store = open_store(memory.url)
    other = store.header("vision").model_copy(update={"thumbnails": 99})
    with written_at(memory.url, what="a test") as place, pytest.raises(MismatchError, match="thumbnails"):
        FeatureWriter.open(place, other)


def test_a_bucket_that_is_not_there_and_read_only_places(s3, kit, tools, monkeypatch):
    with pytest.raises(RemoteError, match="there is no such bucket"):
        tools.write_remote("s3://nobody-has-this-bucket/x", kit)
    for url in ("http://127.0.0.1:9/x", "https://127.0.0.1:9/x"):
        with pytest.raises(UsageError, match="is read-only"):
            tools.write_remote(url, kit)


def test_access_denied_and_a_server_that_is_not_there(s3, kit, tools, monkeypatch):
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(RemoteError, match="does not answer") as told:
        open_store("s3://bucket/x")
    assert "AWS_ENDPOINT_URL" in str(told.value)
    fsspec.filesystem("s3").clear_instance_cache()
    tries = []

    def denied(self, name, start, stop):
        def once():
            tries.append(name)
            raise PermissionError("Access Denied")

        return self._try("read", name, once)

    monkeypatch.setattr(Remote, "stat", lambda self, name: Stat(9, ""))
    monkeypatch.setattr(Remote, "read_range", denied)
    with pytest.raises(RemoteError, match="access denied"):
        open_store("s3://bucket/x")
    assert len(tries) == 1


def test_verify_finds_damage_there_and_repair_lets_it_be_made_again(memory, kit, tools, wanted):
    tools.write_remote(memory.url, kit)
    name = "features/vision/tokens/c/1/0/0"
    open_store(memory.url)["vision"].read("tokens", 0, 7)
    data = bytearray(wanted[name])
    data[5] ^= 1
    memory.put(name, bytes(data))
    report = verify_store(memory.url)
    assert [(f.kind, f.where, f.unit) for f in report.findings] == [("corrupt", name, 1)]
    assert verify_store(memory.url, sample=1.0).corrupt
    memory.put("features/words/status/zarr.json", b"{}")
    report = verify_store(memory.url, repair=True)
    assert report.sound
    assert any("units 1 are taken out, 1 stay" in line for line in report.repaired)
    assert "features/vision/manifest.json" not in memory.objects()
    assert store_info(memory.url).features[0].units_done == 1
    tools.write_remote(memory.url, kit)
    assert memory.objects() == wanted
    assert verify_store(memory.url).findings == ()


def test_verify_sees_what_is_gone_or_short(memory, kit, tools):
    tools.write_remote(memory.url, kit)
    memory.remove("features/vision/pooled/c/0/0")
    memory.put("features/words/tokens/c/0/0", b"abc")
    memory.remove("features/vision/zarr.json")
    for options in ({}, {"sample": 0.5}):
        found = {f.where: f.problem for f in verify_store(memory.url, **options).corrupt}
        assert found["features/vision/pooled/c/0/0"] == "the file is missing"
        assert "3 bytes" in found["features/words/tokens/c/0/0"]
        assert "Zarr metadata is missing" in found["features/vision/zarr.json"]
