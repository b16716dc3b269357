from __future__ import annotations

import os
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.documents import ArraySpec
from embedstore.errors import CorruptStoreError, StorageValueError
from embedstore.store import shard
from embedstore.store.files import write_pieces
from embedstore.store.reads.chunks import ShardedArray

if TYPE_CHECKING:
    from pathlib import Path

FILL = np.array(np.nan, "<f2")


def write(folder: Path, spec: ArraySpec, data):
    """All shards of an array by the real writer."""
    for number, first in enumerate(range(0, len(data), spec.shard)):
        final = folder / "tokens" / "c" / str(number) / "0"
        part = data[first : first + spec.shard]
        name, _ = shard.write(final, part, places=spec.shard, chunk=spec.chunk, fill=FILL)
        name.rename(final)


def small(folder: Path, rows=13, width=3, shard_rows=8, chunk=2):
    spec = ArraySpec(name="tokens", shape=(rows, width), dtype="float16", shard=shard_rows, chunk=chunk)
    data = np.random.default_rng(rows).normal(size=(rows, width)).astype("<f2")
    write(folder, spec, data)
    return spec, data


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    width=st.integers(1, 9),
    chunk=st.sampled_from([1, 2, 4, 8]),
    chunks=st.integers(1, 5),
    picked=st.lists(st.integers(0, 69), max_size=40),
    cut=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    verify=st.sampled_from(["first", "always", "never"]),
)
def test_what_is_written_is_read(*, tmp_path_factory, rows, width, chunk, chunks, picked, cut, verify):
    folder = tmp_path_factory.mktemp("shard")
    spec, data = small(folder, rows, width, chunk * chunks, chunk)
    array = ShardedArray(folder, spec, verify)
    low, high = sorted(min(c, rows) for c in cut)
    for _ in range(2):
        np.testing.assert_array_equal(array.read(low, high), data[low:high])
        places = np.array([p % rows for p in picked], dtype=np.int64)
        np.testing.assert_array_equal(array.gather(places), data[places])
        np.testing.assert_array_equal(array.read(0, rows), data)


def test_far_rows_are_gathered_one_by_one_and_near_ones_together(tmp_path):
    spec, data = small(tmp_path, rows=64, width=20_000, shard_rows=16, chunk=4)
    array = ShardedArray(tmp_path, spec)
    for places in ([63, 0, 5, 5, 31], [7, 6, 5], [16, 17, 18], list(range(64))[::-1]):
        np.testing.assert_array_equal(array.gather(np.array(places)), data[places])
    out = np.empty((2, 20_000), "<f2")
    assert array.gather(np.array([9, 40]), out) is out
    np.testing.assert_array_equal(out, data[[9, 40]])


def test_the_layout_is_chunks_in_row_order_then_the_index(tmp_path):
    _, data = small(tmp_path)
    raw = (tmp_path / "tokens/c/0/0").read_bytes()
    step = 2 * 3 * 2
    for k in range(4):
        chunk = raw[k * 64 : k * 64 + step]
        assert chunk == data[2 * k : 2 * k + 2].tobytes()
        crc = google_crc32c.value(chunk).to_bytes(4, "little")
        assert raw[k * 64 + step : (k + 1) * 64] == crc + bytes(64 - step - 4)
    index = raw[4 * 64 :]
    assert np.frombuffer(index[:-4], "<u8").tolist() == [x for k in range(4) for x in (k * 64, step + 4)]
    assert index[-4:] == google_crc32c.value(index[:-4]).to_bytes(4, "little")


def test_checksums_of_file_and_index_are_the_written_ones(tmp_path):
    data = np.arange(12, dtype="<f2").reshape(4, 3)
    name, made = shard.write(tmp_path / "0", data, places=8, chunk=2, fill=FILL)
    raw = name.read_bytes()
    assert (made.nbytes, made.crc32c) == (len(raw), google_crc32c.value(raw))
    assert made.crc32c == shard.file_crc(name)
    assert made.index_crc32c == shard.stored_index_crc(name)
    (tmp_path / "empty").write_bytes(b"abc")
    assert shard.stored_index_crc(tmp_path / "empty") is None


def test_chunks_are_views_of_what_was_given():
    data = np.zeros((8, 3), "<f2")
    pieces = list(shard.Assembly(data, places=8, chunk=2, fill=FILL))
    assert all(np.shares_memory(piece, data) for piece in pieces[:-1:2])


def test_more_rows_than_the_shard_holds_are_refused():
    with pytest.raises(StorageValueError, match="do not fit the shard"):
        shard.Assembly(np.zeros((9, 3), "<f2"), places=8, chunk=2, fill=FILL)
    with pytest.raises(StorageValueError, match="chunks of 3"):
        shard.Assembly(np.zeros((8, 3), "<f2"), places=8, chunk=3, fill=FILL)


def test_short_writes_go_on(tmp_path, monkeypatch):
    pieces = [bytes([k % 251]) * (k % 7) for k in range(3000)]
    real = os.writev
    calls = []

    def short(handle, buffers):
        calls.append(len(buffers))
        return real(handle, [memoryview(buffers[0])[: max(1, len(buffers[0]) // 2)]])

    monkeypatch.setattr(os, "writev", short)
    with (tmp_path / "f").open("wb") as out:
        write_pieces(out.fileno(), pieces)
    assert (tmp_path / "f").read_bytes() == b"".join(pieces)
    assert max(calls) == 1024


def test_short_reads_go_on(tmp_path, monkeypatch):
    spec, data = small(tmp_path)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda h, b, o: real(h, [b[0][: max(1, len(b[0]) // 2)]], o))
    np.testing.assert_array_equal(ShardedArray(tmp_path, spec).read(0, 13), data)


def test_every_single_bit_flip_is_found(tmp_path):
    """Reading finds it where it could matter; in the filling between chunks the sum of the file tells."""
    spec, data = small(tmp_path)
    path = tmp_path / "tokens/c/0/0"
    good = path.read_bytes()
    whole, step = shard.file_crc(path), 2 * 3 * 2
    for bit in range(8 * len(good)):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        assert shard.file_crc(path) != whole
        if bit // 8 < 4 * 64 and bit // 8 % 64 >= step + 4:
            np.testing.assert_array_equal(ShardedArray(tmp_path, spec).read(0, 8), data[:8])
        else:
            with pytest.raises(CorruptStoreError, match="tokens/c/0/0"):
                ShardedArray(tmp_path, spec).read(0, 8)
    path.write_bytes(good)
    np.testing.assert_array_equal(ShardedArray(tmp_path, spec).read(0, 13), data)


def test_a_shard_cut_at_any_length_is_found(tmp_path):
    spec, _ = small(tmp_path)
    path = tmp_path / "tokens/c/0/0"
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptStoreError, match="tokens/c/0/0"):
            ShardedArray(tmp_path, spec, "never").read(0, 8)
    path.unlink()
    with pytest.raises(CorruptStoreError, match="cannot be opened"):
        ShardedArray(tmp_path, spec).read(0, 1)


def test_a_shard_that_shrinks_while_it_is_open_is_found(tmp_path):
    spec, _ = small(tmp_path)
    array = ShardedArray(tmp_path, spec)
    array.read(0, 8)
    os.truncate(tmp_path / "tokens/c/0/0", 20)
    with pytest.raises(CorruptStoreError, match="cut short"):
        array.read(0, 8)


@pytest.mark.parametrize(
    ("entry", "words"),
    [((10**12, 16), "outside the file"), ((0, 10**15), "wrong size"), ((2**63, 16), "outside")],
)
def test_an_index_that_points_elsewhere_is_refused_before_memory_is_taken(tmp_path, entry, words):
    spec, _ = small(tmp_path)
    path = tmp_path / "tokens/c/0/0"
    raw = path.read_bytes()
    table = np.frombuffer(raw[-68:-4], "<u8").copy()
    table[2:4] = entry
    index = table.tobytes()
    path.write_bytes(raw[:-68] + index + google_crc32c.value(index).to_bytes(4, "little"))
    with pytest.raises(CorruptStoreError, match=words):
        ShardedArray(tmp_path, spec).read(0, 1)


def test_a_missing_chunk_is_never_filled(tmp_path):
    spec, _ = small(tmp_path)
    with pytest.raises(CorruptStoreError, match=r"(?s)chunk is missing.*chunk 3: token places 14 to 15"):
        ShardedArray(tmp_path, ArraySpec(**{**spec.model_dump(), "shape": (16, 3)})).read(8, 16)


def test_the_first_touch_tests_and_later_ones_do_not(tmp_path):
    spec, data = small(tmp_path)
    first, always, never = (ShardedArray(tmp_path, spec, v) for v in ("first", "always", "never"))
    for array in (first, always, never):
        np.testing.assert_array_equal(array.read(0, 1), data[:1])
    path = tmp_path / "tokens/c/0/0"
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)
    assert first.read(0, 2)[0, 0] != data[0, 0]
    assert never.read(0, 2)[0, 0] != data[0, 0]
    with pytest.raises(
        CorruptStoreError, match=r"(?s)does not agree.*chunk 0.*0 to 1.*verify STORE --repair"
    ):
        always.read(0, 1)
