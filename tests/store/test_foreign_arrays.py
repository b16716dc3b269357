"""Arrays that zarr-python wrote again in other layouts are read as our own are."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import zarr
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    ShardingCodecIndexLocation,
    ZstdCodec,
)

from embedstore.errors import CorruptStoreError
from embedstore.store import GroupReader, ShardedArray, open_store, row_tasks, verify_store
from embedstore.store.reads.foreign import ForeignArray
from embedstore.stream.dataset import TokenStream
from embedstore.testing.stores import write_random_store

CRC = [Crc32cCodec()]
# Options of zarr.create_array by the first axis' chunk and shard.
LAYOUTS = {
    "like ours, other sizes": lambda n: {"chunks": 4, "shards": 32, "compressors": CRC},
    "one chunk a shard": lambda n: {"chunks": 64, "shards": 64, "compressors": CRC},
    "zstd": lambda n: {"chunks": 8, "shards": 64, "compressors": [ZstdCodec(level=1)]},
    "blosc, crc behind": lambda n: {"chunks": 8, "shards": 32, "compressors": [BloscCodec(), Crc32cCodec()]},
    "no checksums": lambda n: {"chunks": 8, "shards": 32, "compressors": None},
    "no shards": lambda n: {"chunks": 16, "compressors": [GzipCodec()]},
    "uneven, larger than a block": lambda n: {"chunks": 75, "compressors": [ZstdCodec()]},
    "big-endian": lambda n: {"chunks": 8, "compressors": None, "serializer": BytesCodec(endian="big")},
    "index at start": lambda n: {
        "chunks": 32,
        "compressors": None,
        "serializer": ShardingCodec(
            chunk_shape=(8, *n),
            codecs=[BytesCodec(), Crc32cCodec()],
            index_location=ShardingCodecIndexLocation.start,
        ),
    },
}


def write_again(store, name, array, options):
    """The same values in another layout, rows in an order that mixes the chunks of a shard."""
    folder = store.path / "features" / name / array
    old = zarr.open_array(str(folder), mode="r")
    values, fill = old[...], old.fill_value
    shutil.rmtree(folder)
    rest = values.shape[1:]
    told = options(rest)
    sizes = {k: (told.pop(k), *rest) for k in ("chunks", "shards") if k in told}
    new = zarr.create_array(
        str(folder), shape=values.shape, dtype=values.dtype, fill_value=fill, **sizes, **told
    )
    new[...] = values


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """150 pictures and texts as we write them."""
    path = tmp_path_factory.mktemp("foreign") / "plain"
    return write_random_store(path, images=150, captions=2, seed=4)


@pytest.fixture(params=LAYOUTS)
def foreign(plain, tmp_path, request):
    shutil.copytree(plain.path, tmp_path / "s")
    store = open_store(tmp_path / "s")
    for name in store.features():
        for array in store[name].arrays:
            write_again(store, name, array, LAYOUTS[request.param])
    return open_store(tmp_path / "s")


def test_every_way_of_reading_gives_the_same(plain, foreign):
    random = np.random.default_rng(0)
    for verify in ("first", "always", "never"):
        for name in plain.features():
            ours, theirs = plain[name], foreign.feature(name, verify=verify)
            for array in ours.arrays:
                assert isinstance(theirs.array(array), ForeignArray)
                if array == "tokens" and ours.table == "texts":
                    continue
                rows = random.integers(0, ours.rows, 40)
                np.testing.assert_array_equal(
                    theirs.read(array, 3, ours.rows - 1), ours.read(array, 3, ours.rows - 1)
                )
                np.testing.assert_array_equal(theirs.gather(array, rows), ours.gather(array, rows))
                out = theirs.array(array).empty(len(rows))
                GroupReader(2).run(row_tasks(theirs.array(array), rows, out, direct_io=True))
                np.testing.assert_array_equal(out, ours.gather(array, rows))
    texts = random.permutation(300)
    ours, theirs = plain["words"].text_tokens(texts), foreign["words"].text_tokens(texts)
    np.testing.assert_array_equal(theirs.tokens, ours.tokens)
    np.testing.assert_array_equal(theirs.offsets, ours.offsets)


def test_a_stream_brings_every_row_once(plain, foreign):
    for name in ("vision", "words"):
        seen = []
        for batch in TokenStream(foreign[name], batch_size=32):
            seen.append(batch.rows.copy())
            if name == "vision":
                wanted = plain[name].gather("tokens", batch.rows)
                np.testing.assert_array_equal(batch.tokens.numpy(), wanted)
            else:
                wanted = plain[name].text_tokens(batch.rows)
                np.testing.assert_array_equal(batch.tokens.numpy(), wanted.tokens)
        good = np.flatnonzero(plain[name].status() == 0)
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), good)


def test_it_is_pickled_and_joined(plain, foreign, tmp_path):
    array = pickle.loads(pickle.dumps(foreign["vision"].array("tokens")))  # noqa: S301 - our own
    np.testing.assert_array_equal(array.read(0, 9), plain["vision"].read("tokens", 0, 9))
    other = write_random_store(tmp_path / "other", images=20, captions=1, seed=5, card_seed=4, ids="z")
    both = open_store(f"{foreign.path}+{other.path}")["vision"]
    rows = np.array([160, 3, 149, 150, 0])
    np.testing.assert_array_equal(
        both.gather("tokens", rows)[[1, 2, 4]], plain["vision"].gather("tokens", [3, 149, 0])
    )


def test_verify_says_that_the_bytes_are_others(foreign):
    assert not verify_store(foreign.path).sound


def one_array(plain, tmp_path, layout):
    shutil.copytree(plain.path, tmp_path / "s")
    write_again(open_store(tmp_path / "s"), "vision", "tokens", LAYOUTS[layout])
    return tmp_path / "s"


@pytest.mark.parametrize("layout", ["like ours, other sizes", "blosc, crc behind"])
def test_a_flipped_bit_is_found_and_named(plain, tmp_path, layout):
    path = one_array(plain, tmp_path, layout)
    shard = path / "features/vision/tokens/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 4
    shard.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"vision/tokens/c/0/0/0"):
        open_store(path)["vision"].read("tokens", 0, 8)


@pytest.mark.parametrize("place", ["c/0/0/0", "c/0"])
def test_a_link_out_of_the_store_is_not_followed(plain, tmp_path, place):
    path = one_array(plain, tmp_path, "no checksums")
    there = path / "features/vision/tokens" / place
    there.rename(tmp_path / "outside")
    there.symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptStoreError, match="a link leads out of the store"):
        open_store(path)["vision"].read("tokens", 40, 41)


@pytest.mark.parametrize("sizes", [{"chunks": 2**36}, {"chunks": 1, "shards": 2**36}])
def test_room_that_no_file_could_fill_is_not_made(plain, tmp_path, sizes):
    shutil.copytree(plain.path, tmp_path / "s")
    folder = tmp_path / "s/features/vision/status"
    shutil.rmtree(folder)
    sizes = {k: (v,) for k, v in sizes.items()}
    zarr.create_array(
        str(folder), shape=(150,), dtype="uint8", fill_value=255, compressors=[ZstdCodec()], **sizes
    )
    with pytest.raises(CorruptStoreError, match="promises more"):
        open_store(tmp_path / "s")["vision"].read("status", 0, 2)


def test_a_row_without_a_status_is_not_taken_for_a_quarantined_one(plain, tmp_path):
    shutil.copytree(plain.path, tmp_path / "s")
    write_again(open_store(tmp_path / "s"), "vision", "status", LAYOUTS["zstd"])
    (tmp_path / "s/features/vision/status/c/1").unlink()
    with pytest.raises(CorruptStoreError, match=r"(?s)neither good nor quarantined.*255 at row 64"):
        TokenStream(open_store(tmp_path / "s")["vision"], batch_size=8)


def test_an_array_of_another_shape_is_refused(plain, tmp_path):
    shutil.copytree(plain.path, tmp_path / "s")
    folder = tmp_path / "s/features/vision/tokens"
    shutil.rmtree(folder)
    zarr.create_array(str(folder), shape=(150, 3, 2), dtype="float16", chunks=(8, 3, 2))
    with pytest.raises(CorruptStoreError, match="another array lies here"):
        open_store(tmp_path / "s")["vision"]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            lambda z: z["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"}),
            "not read",
        ),
        (lambda z: z["codecs"].append({"name": "my.own", "configuration": {}}), "not read"),
        (lambda z: z.update(storage_transformers=[{"name": "anything"}]), "not read"),
        (lambda z: z["codecs"].append({"configuration": 3}), "metadata cannot be read"),
    ],
)
def test_codecs_that_may_run_anything_are_refused(plain, tmp_path, edit, told):
    path = one_array(plain, tmp_path, "zstd")
    file = path / "features/vision/tokens/zarr.json"
    found = json.loads(file.read_text())
    edit(found)
    file.write_text(json.dumps(found))
    with pytest.raises(CorruptStoreError, match=told):
        open_store(path)["vision"]


def test_our_own_arrays_stay_ours(plain):
    for name in plain.features():
        for array in plain[name].arrays:
            assert type(plain[name].array(array)) is ShardedArray
