"""Reading groups of rows by blocks: equal to one row at a time, in any order, from any number of threads."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import threading

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import CorruptStoreError, UsageError
from embedstore.store import GroupReader, open_store, row_tasks
from embedstore.store.reads import direct, scatter, tested
from embedstore.store.reads.blocks import advise, packed_tasks
from embedstore.store.reads.mapped import FileMap
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Several shards of several chunks, the last of each cut short."""
    path = tmp_path_factory.mktemp("stores") / "s"
    write_random_store(path, images=300, captions=2, image_tokens=64, image_width=384, shard_rows=128)
    return path


@pytest.fixture
def small_pieces(monkeypatch):
    """Vector reads for rows of any size, spans of a few rows."""
    monkeypatch.setattr(scatter, "_VECTOR_BYTES", 1)
    monkeypatch.setattr(tested, "_SPAN_BYTES", 200 << 10)


@pytest.fixture
def unmapped(monkeypatch):
    """As where the system does not tell what is in memory."""
    monkeypatch.setattr(FileMap, "of", lambda handle: None)


@pytest.fixture
def all_mapped(monkeypatch):
    """Whatever is in memory is taken through maps, however little it is."""
    monkeypatch.setattr(direct, "MAPPED_BYTES", 1)
    monkeypatch.setattr(tested, "MAPPED_BYTES", 1)


rows_of = st.lists(st.integers(0, 299), max_size=40)


@pytest.mark.parametrize("verify", ["first", "always", "never"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", ["unmapped", "all_mapped"])
def test_a_group_is_its_rows_one_by_one(place, verify, threads, how, request):
    request.getfixturevalue(how)
    reader = GroupReader(threads)
    feature, plain = open_store(place).feature("vision", verify=verify), open_store(place)["vision"]

    @settings(max_examples=25, deadline=None)
    @given(rows=rows_of)
    def check(rows):
        for name in ("tokens", "prefix", "pooled"):
            array = feature.array(name)
            out = array.empty(len(rows))
            reader.run(row_tasks(array, np.array(rows, np.int64), out))
            for i, row in enumerate(rows):
                np.testing.assert_array_equal(out[i], plain.read(name, row, row + 1)[0])

    check()


def test_small_spans_give_the_same(place, small_pieces):
    feature = open_store(place)["vision"]
    rows = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(feature.gather("pooled", rows), feature.read("pooled", 0, 300)[rows])
    np.testing.assert_array_equal(feature.gather("tokens", rows), feature.read("tokens", 0, 300)[rows])


def test_past_the_page_cache_the_rows_are_the_same(place, monkeypatch):
    rows = np.random.default_rng(3).permutation(300)[:170]
    wanted = open_store(place)["vision"].gather("tokens", rows)
    real = os.preadv

    def refusing(handle, buffers, offset):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct reads here")
        return real(handle, buffers, offset)

    for verify in ("first", "never"):
        for preadv in (real, refusing):
            monkeypatch.setattr(os, "preadv", preadv)
            array = open_store(place).feature("vision", verify=verify).array("tokens")
            for _ in range(2):
                out = array.empty(len(rows))
                GroupReader(2).run(row_tasks(array, rows, out, direct_io=True))
                np.testing.assert_array_equal(out, wanted)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.integers(0, 599), max_size=40))
def test_texts_land_packed_in_their_order(place, texts):
    feature = open_store(place)["words"]
    rows = np.array(texts, np.int64)
    lengths = feature.lengths()[rows].astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    out = feature.array("tokens").empty(int(offsets[-1]))
    starts = feature.token_starts()[rows]
    GroupReader(2).run(packed_tasks(feature.array("tokens"), starts, lengths, offsets[:-1], out))
    np.testing.assert_array_equal(out, feature.text_tokens(rows).tokens)
    advise(feature.array("tokens"), starts, lengths=lengths)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Texts of up to seven tokens in chunks of two."""
    path = tmp_path_factory.mktemp("stores") / "wide"
    write_random_store(
        path, images=20, image_tokens=1, image_width=2, text_width=30_000, max_tokens=7, shard_rows=16
    )
    return path


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.integers(0, 39), max_size=30), verify=st.sampled_from(["first", "always", "never"]))
def test_texts_that_come_again_land_where_they_belong(wide, texts, verify):
    feature = open_store(wide).feature("words", verify=verify)
    array, rows = feature.array("tokens"), np.array(texts, np.int64)
    assert array.spec.chunk == 2
    wanted = feature.text_tokens(rows)
    lengths = np.diff(wanted.offsets)
    fresh = open_store(wide).feature("words", verify=verify).array("tokens")
    for each in (fresh, array):
        out = each.empty(len(wanted.tokens))
        tasks = packed_tasks(each, feature.token_starts()[rows], lengths, wanted.offsets[:-1], out)
        GroupReader(1).run(tasks)
        np.testing.assert_array_equal(out, wanted.tokens)


@pytest.mark.parametrize(("verify", "rows"), [("never", [0]), ("first", [0]), ("first", [0, 1])])
def test_a_shard_that_is_cut_while_it_is_open_is_told(tmp_path, verify, rows):
    write_random_store(tmp_path / "s", images=32, image_tokens=64, image_width=384, shard_rows=32)
    array = open_store(tmp_path / "s").feature("vision", verify=verify).array("tokens")
    array.shard(0)
    os.truncate(tmp_path / "s/features/vision/tokens/c/0/0/0", 1000)
    with pytest.raises(CorruptStoreError, match=r"(?s)tokens/c/0/0/0: the shard is cut short.*rows 0 to 1"):
        array.gather(np.array(rows))


def test_a_chunk_that_is_missing_is_told(tmp_path):
    write_random_store(tmp_path / "s", images=32, image_tokens=64, image_width=384, shard_rows=32)
    change_a_chunk(
        tmp_path / "s/features/vision/tokens/c/0/0/0", chunks=16, chunk=2, entry=lambda _: 2**64 - 1
    )
    array = open_store(tmp_path / "s")["vision"].array("tokens")
    with pytest.raises(CorruptStoreError, match=r"(?s)tokens/c/0/0/0: a chunk is missing.*rows 4 to 5"):
        array.gather(np.array([1, 5]))


def test_chunks_larger_than_the_scratch_of_a_thread_are_read(place, monkeypatch):
    rows = np.random.default_rng(3).permutation(300)[:50]
    wanted = open_store(place)["vision"].gather("tokens", rows)
    monkeypatch.setattr(tested, "_SPAN_BYTES", 1000)
    for direct_io in (False, True):
        array = open_store(place)["vision"].array("tokens")
        out = array.empty(len(rows))
        GroupReader(2).run(row_tasks(array, rows, out, direct_io=direct_io))
        np.testing.assert_array_equal(out, wanted)


def change_a_chunk(path, *, chunks, chunk, entry):
    """Another entry for a chunk in the index of a shard."""
    raw = bytearray(path.read_bytes())
    table = np.frombuffer(raw, "<u8", 2 * chunks, len(raw) - 16 * chunks - 4).reshape(chunks, 2)
    table[chunk] = entry(table)
    raw[-4:] = google_crc32c.value(table.tobytes()).to_bytes(4, "little")
    path.write_bytes(raw)


@pytest.mark.parametrize("verify", ["first", "never"])
@pytest.mark.parametrize("direct_io", [False, True])
def test_chunks_that_share_their_bytes_are_read_as_they_are(tmp_path, verify, direct_io):
    write_random_store(tmp_path / "s", images=32, image_tokens=64, image_width=384, shard_rows=32)
    wanted = open_store(tmp_path / "s")["vision"].read("tokens", 0, 32)
    # As a writer may that finds two chunks equal.
    change_a_chunk(tmp_path / "s/features/vision/tokens/c/0/0/0", chunks=16, chunk=2, entry=lambda t: t[1])
    wanted[4:6] = wanted[2:4]
    array = open_store(tmp_path / "s").feature("vision", verify=verify).array("tokens")
    for rows in ([3, 4], [2, 3, 4, 5], [5, 3, 1, 4, 2]):
        out = array.empty(len(rows))
        GroupReader(1).run(row_tasks(array, np.array(rows), out, direct_io=direct_io))
        np.testing.assert_array_equal(out, wanted[rows])


def test_a_block_of_neighbours_is_one_read(place, monkeypatch, unmapped):
    array = open_store(place).feature("vision", verify="never").array("tokens")
    array.read(0, 1)
    calls, real = [], os.preadv

    def counted(handle, buffers, offset):
        calls.append(len(buffers))
        return real(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    rows = np.random.default_rng(0).permutation(32) + 7
    GroupReader(1).run(row_tasks(array, rows, array.empty(32)))
    assert len(calls) == 1
    assert calls[0] > 32


def test_short_reads_go_on(place, monkeypatch, unmapped):
    feature = open_store(place).feature("vision", verify="never")
    rows = np.random.default_rng(1).permutation(100)
    wanted, real = feature.read("tokens", 0, 100)[rows], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda handle, buffers, offset: real(handle, [memoryview(buffers[0])[:1000]], offset)
    )
    np.testing.assert_array_equal(feature.gather("tokens", rows), wanted)


def test_a_flipped_bit_in_a_block_is_found_and_named(tmp_path):
    write_random_store(tmp_path / "s", images=40, image_tokens=64, image_width=384, shard_rows=32)
    shard = tmp_path / "s/features/vision/tokens/c/1/0/0"
    raw = bytearray(shard.read_bytes())
    raw[1000] ^= 4
    shard.write_bytes(raw)
    array = open_store(tmp_path / "s")["vision"].array("tokens")
    reader = GroupReader(2)
    with pytest.raises(CorruptStoreError, match=r"(?s)tokens/c/1/0/0: a chunk does not agree.*rows 32"):
        reader.run(row_tasks(array, np.arange(39, 29, -1), array.empty(10)))
    reader.run(row_tasks(array, np.arange(10), array.empty(10)))


def test_the_first_error_ends_the_other_tasks():
    done, gate = [], threading.Event()

    def bad():
        gate.set()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        GroupReader(1).run([bad, *(lambda i=i: done.append(i) for i in range(100))])
    assert done == []
    with pytest.raises(ValueError, match="broken"):
        GroupReader(3).run([bad, gate.wait, gate.wait])


def test_what_cannot_be_read_is_refused(place):
    array = open_store(place)["vision"].array("tokens")
    with pytest.raises(UsageError, match="rows outside tokens"):
        row_tasks(array, np.array([300]), array.empty(1))
    with pytest.raises(UsageError, match="does not fit"):
        row_tasks(array, np.array([3]), array.empty(2))
    with pytest.raises(UsageError, match="reading threads"):
        GroupReader(0)
    assert pickle.loads(pickle.dumps(GroupReader(3))).threads == 3  # noqa: S301 - our own
