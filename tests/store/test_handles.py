"""Open files are bounded over all arrays of the process, and none is lost while it is read."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import CorruptStoreError, StoreError
from embedstore.store import GroupReader, open_store, row_tasks
from embedstore.store.reads import handles
from embedstore.testing.stores import write_random_store

FILES = Path("/proc/self/fd")
ROWS = 240

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="this system does not list open files")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two features of seven arrays in 120 or 240 shards each: far more files than are kept open."""
    path = tmp_path_factory.mktemp("handles") / "store"
    write_random_store(path, images=ROWS, captions=1, image_tokens=4, image_width=4, shard_rows=2)
    return path


@pytest.fixture
def few(monkeypatch):
    """At most twenty files of shards are kept."""
    monkeypatch.setattr(handles, "most_open", lambda: 20)
    gc.collect()
    handles._recent.let_go(10**6)
    return 20


def shards_open():
    found = 0
    for handle in FILES.iterdir():
        try:
            found += "/features/" in str(handle.readlink())
        except OSError:
            continue
    return found


def read_all(feature):
    arrays = [a for a in feature.arrays if a not in ("tokens", "lengths") or feature.table == "images"]
    values = {name: feature.read(name, 0, ROWS) for name in arrays}
    if feature.table == "texts":
        values["tokens"] = feature.text_tokens(slice(None)).tokens
    return values


def test_many_arrays_and_parts_keep_few_files_open(store, few):
    opened = [open_store(store)[name] for name in ("vision", "words") for _ in range(3)]
    wanted = {name: read_all(open_store(store)[name]) for name in ("vision", "words")}
    for feature in opened:
        for name, values in read_all(feature).items():
            np.testing.assert_array_equal(values, wanted[feature.name][name])
        assert 0 < shards_open() <= few
    random = np.random.default_rng(0)
    for _ in range(20):
        rows = random.integers(0, ROWS, 50)
        np.testing.assert_array_equal(opened[0].gather("tokens", rows), wanted["vision"]["tokens"][rows])
        assert shards_open() <= few


def test_files_are_closed_with_what_held_them(store, few):
    feature = open_store(store)["vision"]
    feature.read("pooled", 0, 30)
    assert shards_open() == 15
    del feature
    gc.collect()
    assert shards_open() == 0


def test_what_was_used_last_stays_open(store, few):
    array = open_store(store)["vision"].array("pooled")
    for first in range(0, ROWS, 2):
        array.read(0, 1)
        array.read(first, first + 1)
    assert 0 in array._open
    assert len(array._open) == few


def test_threads_that_push_each_other_out_read_what_is_stored(store, few):
    features = [open_store(store)["vision"] for _ in range(2)]
    wanted = features[0].read("tokens", 0, ROWS)
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(60):
            rows = random.integers(0, ROWS, 40)
            if not np.array_equal(features[seed % 2].gather("tokens", rows), wanted[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []
    assert shards_open() <= few


@pytest.mark.parametrize(("soft", "most"), [(1024, 512), (64, 32), (20, 16), (100_000, 1024)])
def test_the_bound_follows_the_limit_of_the_process(monkeypatch, soft, most):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, soft))
    assert handles.most_open() == most


def test_rows_of_more_shards_than_may_be_open_are_read(store):
    feature = open_store(store)["vision"]
    rows = np.random.default_rng(1).permutation(ROWS)
    wanted = feature.read("tokens", 0, ROWS)[rows]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    handles._recent.let_go(10**6)
    most = len(list(FILES.iterdir())) + 80
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        np.testing.assert_array_equal(feature.gather("tokens", rows), wanted)
        for direct_io in (False, True):
            out = np.empty_like(wanted)
            GroupReader(2).run(row_tasks(feature.array("tokens"), rows, out, direct_io=direct_io))
            np.testing.assert_array_equal(out, wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_again(path, change):
    """Put another file in the place of a shard, as a repair does, with one byte changed."""
    raw = bytearray(path.read_bytes())
    raw[change] ^= 1
    path.with_name("new").write_bytes(raw)
    path.with_name("new").replace(path)


def test_a_shard_that_was_made_again_is_tested_again(tmp_path):
    write_random_store(tmp_path / "s", images=4, captions=1, shard_rows=2)
    array = open_store(tmp_path / "s")["vision"].array("tokens")
    wanted = array.read(0, 4)
    make_again(tmp_path / "s/features/vision/tokens/c/0/0/0", change=3)
    np.testing.assert_array_equal(array.read(0, 4), wanted)
    array.let_go(0)
    with pytest.raises(CorruptStoreError, match="tokens/c/0/0/0: a chunk does not agree"):
        array.read(0, 1)
    np.testing.assert_array_equal(array.read(2, 4), wanted[2:])


def test_reads_past_the_cache_are_of_the_file_whose_index_was_read(tmp_path):
    write_random_store(tmp_path / "s", images=4, captions=1, shard_rows=2)
    array = open_store(tmp_path / "s").feature("vision", verify="never").array("tokens")
    wanted = array.read(0, 2)
    make_again(tmp_path / "s/features/vision/tokens/c/0/0/0", change=3)
    out = np.empty_like(wanted)
    GroupReader(1).run(row_tasks(array, np.arange(2), out, direct_io=True))
    np.testing.assert_array_equal(out, wanted)


def test_a_process_ends_without_a_word(store):
    """Features that live to its end are taken apart when its modules are already empty."""
    script = f"""
import os
from embedstore.store import open_store
os.kept = open_store({str(store)!r})["vision"]
os.kept.read("tokens", 0, {ROWS})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def take_all(held):
    """Take every file that this process may still open."""
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return


def test_a_process_that_has_few_files_left_still_reads(store):
    """Others hold all but a handful of the files that this process may open."""
    feature, again = (open_store(store)["vision"] for _ in range(2))
    wanted = feature.read("tokens", 0, ROWS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        take_all(held)
        np.testing.assert_array_equal(again.read("tokens", 0, ROWS), wanted)
        handles._recent.let_go(10**6)
        take_all(held)
        with pytest.raises(StoreError, match=r"(?s)no more files can be opened.*ulimit -n"):
            feature.read("pooled", 0, ROWS)
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_forked_child_reads_on(store):
    feature = open_store(store)["vision"]
    wanted = feature.read("pooled", 0, ROWS)
    with handles._recent._lock, feature.array("pooled")._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
        if child == 0:
            same = np.array_equal(feature.read("pooled", 0, ROWS), wanted)
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
