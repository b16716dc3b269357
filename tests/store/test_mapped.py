"""Files read through a map: only what is in memory, and never at the price of the process."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import CorruptStoreError
from embedstore.store import open_store
from embedstore.store.reads import direct, handles
from embedstore.store.reads.chunks import OpenShard
from embedstore.store.reads.mapped import FileMap
from embedstore.testing.stores import write_random_store

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps are used on Linux only")
PAGES = 64


@pytest.fixture
def opened(tmp_path):
    """A file of some pages, flushed, and its handle."""
    path = tmp_path / "f"
    path.write_bytes(np.random.default_rng(0).bytes(PAGES * mmap.PAGESIZE))
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    yield path, handle
    os.close(handle)


def test_the_bytes_are_those_of_the_file_and_cannot_be_written(opened):
    path, handle = opened
    found = FileMap.of(handle)
    assert found.in_memory(0, PAGES * mmap.PAGESIZE)
    assert found.bytes.tobytes() == path.read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        found.bytes[0] = 1


@pytest.mark.parametrize(("first", "stop"), [(-1, 5), (5, 5), (0, PAGES * mmap.PAGESIZE + 1)])
def test_nothing_outside_the_file_is_in_memory(opened, first, stop):
    assert not FileMap.of(opened[1]).in_memory(first, stop)


def test_what_the_system_dropped_is_not_in_memory(opened):
    path, handle = opened
    found = FileMap.of(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    if found.in_memory(0, 1):
        pytest.skip("this file system keeps its files in memory")
    with path.open("rb") as source:
        source.seek(40 * mmap.PAGESIZE)
        source.read(1)
    assert found.in_memory(40 * mmap.PAGESIZE + 5, 40 * mmap.PAGESIZE + 6)


def test_a_file_that_was_cut_is_not_in_memory(opened):
    _, handle = opened
    found = FileMap.of(handle)
    os.ftruncate(handle, 10 * mmap.PAGESIZE)
    assert not found.in_memory(0, 1)


def test_an_empty_file_and_one_of_another_owner_have_no_map(tmp_path, opened, monkeypatch):
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as source:
        assert FileMap.of(source.fileno()) is None
    monkeypatch.setattr(os, "geteuid", lambda: os.fstat(opened[1]).st_uid + 1)
    assert FileMap.of(opened[1]) is None


def maps_of(path):
    """How often this process has mapped files below a folder."""
    with Path("/proc/self/maps").open(encoding="utf-8") as lines:
        return sum(str(path) in line for line in lines)


def open_files(path):
    """How many files below a folder this process has open."""
    found = 0
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            found += str(handle.readlink()).startswith(str(path))
    return found


@pytest.fixture
def store(tmp_path):
    """A store of two shards of images."""
    write_random_store(tmp_path / "s", images=64, image_tokens=64, image_width=384, shard_rows=32)
    return open_store(tmp_path / "s")


def test_maps_go_with_the_shards_that_are_let_go_and_with_the_feature(store):
    rows = np.random.default_rng(0).permutation(64)
    feature = store.feature("vision", verify="never")
    wanted = feature.read("tokens", 0, 64)[rows]
    for _ in range(2):
        np.testing.assert_array_equal(feature.gather("tokens", rows), wanted)
        assert maps_of(store.path) == 2
        handles.let_go_all()
        assert maps_of(store.path) == 0
    np.testing.assert_array_equal(feature.gather("tokens", rows), wanted)
    del feature
    gc.collect()
    assert maps_of(store.path) == 0


def test_two_threads_may_open_a_shard_past_the_cache_at_once_and_none_stays_open(store, monkeypatch):
    array = store.feature("vision", verify="never").array("tokens")
    once = OpenShard._open_direct

    def meanwhile(shard):
        monkeypatch.setattr(OpenShard, "_open_direct", once)
        other = shard.direct()
        assert shard.direct() == other
        return once(shard)

    array.shard(0)
    before = open_files(store.path)
    monkeypatch.setattr(OpenShard, "_open_direct", meanwhile)
    if array.shard(0).direct() < 0:
        pytest.skip("this file system cannot be read past the page cache")
    assert open_files(store.path) == before + 2
    handles.let_go_all()
    gc.collect()
    assert open_files(store.path) == 0


def test_a_shard_may_be_let_go_between_the_plan_and_its_copies(store):
    rows = np.arange(64)
    feature = store.feature("vision", verify="never")
    wanted = feature.gather("tokens", rows)
    array = feature.array("tokens")
    out = array.empty(64)
    tasks = array.scatter(rows, None, rows, out)
    handles.let_go_all()
    gc.collect()
    assert maps_of(store.path) == 2
    for task in tasks:
        task()
    np.testing.assert_array_equal(out, wanted)
    del task, tasks
    gc.collect()
    assert maps_of(store.path) == 0


def test_a_shard_that_is_cut_between_the_plan_and_its_copies_is_an_error(store):
    rows = np.arange(64)
    feature = store.feature("vision", verify="never")
    array = feature.array("tokens")
    feature.gather("tokens", rows)
    tasks = array.scatter(rows, None, rows, array.empty(64))
    os.truncate(store.path / "features/vision/tokens/c/1/0/0", 100)
    with pytest.raises(CorruptStoreError, match=r"tokens/c/1/0/0: the shard is cut short[\s\S]*rows 32"):
        deque((task() for task in tasks), maxlen=0)


@pytest.mark.parametrize("kept", [0, 1, 100_000, 700_001])
def test_a_shard_that_is_cut_while_it_is_mapped_is_an_error(store, kept):
    feature = store.feature("vision", verify="never")
    feature.gather("tokens", np.arange(64))
    assert maps_of(store.path) == 2
    shard = store.path / "features/vision/tokens/c/1/0/0"
    assert kept < shard.stat().st_size
    os.truncate(shard, kept)
    with pytest.raises(CorruptStoreError, match=r"tokens/c/1/0/0: the shard is cut short"):
        feature.gather("tokens", np.arange(64))
    assert len(feature.gather("tokens", np.arange(32))) == 32


def test_little_is_read_without_a_map(store, monkeypatch):
    feature = store.feature("vision", verify="never")
    feature.gather("tokens", np.array([1, 20, 40]))
    assert maps_of(store.path) == 0
    monkeypatch.setattr(direct, "MAPPED_BYTES", 1)
    feature.gather("tokens", np.array([1, 20, 40]))
    assert maps_of(store.path) == 2
