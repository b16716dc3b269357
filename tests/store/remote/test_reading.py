"""A remote store read: everything equal to the local one, little of it fetched, changes and damage found."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from embedstore.encode import recode_feature
from embedstore.errors import CorruptStoreError, RemoteError, StoreNotFoundError, UsageError
from embedstore.store import open_store, store_info
from embedstore.store.remote.array import RemoteArray
from embedstore.store.remote.objects import Remote, parse_url
from embedstore.testing.stores import write_random_store


@pytest.fixture
def pair(memory, tmp_path):
    """The same store twice: at a URL, and here."""
    local = write_random_store(tmp_path / "my.store", images=150, captions=2, shard_rows=32)
    memory.copy(tmp_path / "my.store")
    return open_store(memory.url), local


@pytest.fixture
def requested(monkeypatch):
    """Every range of bytes that was asked for."""
    seen, real = [], Remote.read_range

    def read(self, name, start, stop):
        seen.append((name, start, stop))
        return real(self, name, start, stop)

    monkeypatch.setattr(Remote, "read_range", read)
    return seen


def all_equal(store, local):
    assert store.plan == local.plan
    assert store.images().equals(local.images())
    assert store.texts().equals(local.texts())
    assert store.nbytes == local.nbytes
    rows = np.random.default_rng(0).permutation(local.plan.images)
    for name in ("tokens", "prefix", "pooled", "status"):
        whole = local["vision"].read(name, 0, len(rows))
        assert np.array_equal(store["vision"].read(name, 0, len(rows)), whole)
        assert np.array_equal(store["vision"].gather(name, rows), local["vision"].gather(name, rows))
    texts = np.random.default_rng(1).permutation(local.plan.texts)
    theirs, ours = store["words"].text_tokens(texts), local["words"].text_tokens(texts)
    assert np.array_equal(theirs.tokens, ours.tokens)
    assert np.array_equal(theirs.offsets, ours.offsets)
    assert store["words"].ids().equals(local["words"].ids())


def test_everything_is_equal_to_the_local_store(pair):
    all_equal(*pair)


def test_everything_is_equal_over_s3_and_in_a_joined_store(s3, tmp_path):
    local = write_random_store(tmp_path / "a.store", images=60, shard_rows=32, ids="a", card_seed=1)
    other = write_random_store(tmp_path / "b.store", images=40, captions=1, seed=2, ids="b", card_seed=1)
    store = open_store(s3.copy(tmp_path / "a.store"))
    all_equal(store, local)
    assert store.place == s3.url
    assert s3.url in repr(store)
    joined = open_store(f"{s3.url}+{tmp_path}/b.store")
    assert joined.place == f"{s3.url}+{tmp_path}/b.store"
    assert np.array_equal(
        joined["vision"].gather("tokens", [99, 0, 61]),
        np.concatenate(
            [
                other["vision"].gather("tokens", [39]),
                local["vision"].gather("tokens", [0]),
                other["vision"].gather("tokens", [1]),
            ]
        ),
    )
    assert store_info(f"{tmp_path}/b.store+{s3.url}").parts == (f"{tmp_path}/b.store", s3.url)


def test_info_brings_no_table_and_no_shard(memory, tmp_path, requested):
    local = write_random_store(tmp_path / "my.store", images=40)
    memory.copy(tmp_path / "my.store")
    assert store_info(memory.url).nbytes == local.nbytes
    assert not [name for name, _, _ in requested if name.startswith("tables") or "/c/" in name]


def test_a_second_look_fetches_nothing_but_the_plan(pair, memory, requested):
    store, _ = pair
    store["vision"].read("tokens", 0, 150)
    store.images()
    requested.clear()
    again = open_store(memory.url)
    again["vision"].read("tokens", 0, 150)
    again.images()
    assert {name for name, _, _ in requested} == {"plan.json"}


def test_large_shards_come_in_pieces_and_neighbours_together(memory, tmp_path, requested):
    local = write_random_store(
        tmp_path / "my.store", images=64, image_tokens=64, image_width=512, shard_rows=64, captions=0
    )
    spec = local["vision"].array("tokens").spec
    assert spec.shard // spec.chunk > 7
    memory.copy(tmp_path / "my.store")
    tokens = open_store(memory.url)["vision"].array("tokens")
    requested.clear()
    first = spec.chunk
    assert np.array_equal(tokens.read(first, first + 1), local["vision"].read("tokens", first, first + 1))
    ranges = [(a, b) for name, a, b in requested if "/c/" in name]
    chunk = tokens.place_bytes * spec.chunk
    # The index at the end, and one chunk with its checksum.
    assert sorted(b - a for a, b in ranges) == [16 * (64 // spec.chunk) + 4, chunk + 4]
    requested.clear()
    assert np.array_equal(tokens.read(0, 64), local["vision"].read("tokens", 0, 64))
    assert sum(b - a for _, a, b in requested) < (64 // spec.chunk) * (chunk + 256)
    assert len(requested) <= 3


def test_small_shards_come_many_at_once(memory, tmp_path, monkeypatch):
    """A column of many units is not one wait after the other."""
    local = write_random_store(tmp_path / "my.store", images=400, captions=1, shard_rows=4)
    memory.copy(tmp_path / "my.store")
    flying, together, real = [0], threading.Condition(), Remote.read_range

    def read(self, name, start, stop):
        """Waits until five are asked for at once; one after the other, none ever would be."""
        with together:
            flying[0] += 1
            together.notify_all()
            assert together.wait_for(lambda: flying[0] >= 5, timeout=30)
        return real(self, name, start, stop)

    feature = open_store(memory.url)["words"]
    monkeypatch.setattr(Remote, "read_range", read)
    assert np.array_equal(feature.lengths(), local["words"].lengths())
    flying[0], rows = 0, np.random.default_rng(0).permutation(400)
    assert np.array_equal(feature.gather("pooled", rows), local["words"].gather("pooled", rows))
    out = np.empty((7, 12), np.float16)
    assert feature.read("pooled", 9, 16, out) is out
    assert np.array_equal(out, local["words"].read("pooled", 9, 16))
    for start, stop in ((-1, 3), (5, 401), (5, 4)):
        with pytest.raises(UsageError, match="rows outside"):
            feature.read("pooled", start, stop)
    with pytest.raises(UsageError, match="does not fit"):
        feature.read("pooled", 0, 400, out)


def test_thumbnails_quarantine_and_learnt_policies(memory, whole, kit, tmp_path):
    recode_feature(whole, "vision", policy="int8", name="small")
    memory.copy(whole)
    store, local = open_store(memory.url), open_store(whole)
    rows = np.arange(kit.images)
    assert store.thumbnails(rows) == local.thumbnails(rows)
    assert any(store.thumbnails(rows))
    assert np.array_equal(
        store["small"].decoded("tokens", rows), local["small"].decoded("tokens", rows), equal_nan=True
    )
    assert [f.quarantined for f in store_info(memory.url).features] == [
        f.quarantined for f in store_info(whole).features
    ]


def test_nothing_remote_is_loaded_for_a_local_store(whole):
    code = f"import sys\nimport embedstore.store as s\ns.open_store({str(whole)!r})['vision'].status()"
    loaded = f"{code}\nassert not {{'fsspec', 's3fs', 'aiohttp', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_arrays_are_pickled_by_name(pair):
    store, local = pair
    array = pickle.loads(pickle.dumps(store["vision"])).array("tokens")  # noqa: S301 - our own bytes
    assert isinstance(array, RemoteArray)
    assert np.array_equal(array.read(0, 9), local["vision"].read("tokens", 0, 9))


def test_another_store_at_the_same_url_is_never_mixed_in(pair, memory, tmp_path):
    store, _ = pair
    store["vision"].read("tokens", 0, 32)
    other = write_random_store(tmp_path / "other.store", images=150, shard_rows=32, seed=5, ids="t")
    memory.copy(tmp_path / "other.store")
    for _ in range(2):
        with pytest.raises(RemoteError, match="the store has changed since it was opened"):
            store["vision"].read("pooled", 0, 150)
    with pytest.raises(RemoteError, match="the store has changed since it was opened"):
        store.texts()
    all_equal(open_store(memory.url), other)


def test_a_feature_made_again_with_other_values_is_read_anew(memory, tmp_path):
    """The plan is the same, so the mirror is; its files and the cached shards are not."""
    write_random_store(tmp_path / "one", images=40, seed=3)
    two = write_random_store(tmp_path / "two", images=40, seed=3, noise=0.9)
    memory.copy(tmp_path / "one")
    first = open_store(memory.url)
    before = first["vision"].read("tokens", 0, 40)
    memory.copy(tmp_path / "two")
    after = open_store(memory.url)["vision"].read("tokens", 0, 40)
    assert np.array_equal(after, two["vision"].read("tokens", 0, 40))
    assert not np.array_equal(after, before)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("features/vision/tokens/c/1/0/0", "does not agree with its checksum"),
        ("features/words/tokens/c/2/0", "does not agree with its checksum"),
    ],
)
def test_a_corrupt_object_is_found(memory, tmp_path, name, problem):
    write_random_store(tmp_path / "my.store", images=150, captions=2, shard_rows=32)

    def read_all():
        feature = open_store(memory.url)[name.split("/")[1]]
        if feature.table == "texts":
            feature.text_tokens(range(feature.rows))
        else:
            feature.read("tokens", 0, feature.rows)

    data = bytearray((tmp_path / "my.store" / name).read_bytes())
    data[11] ^= 4
    memory.copy(tmp_path / "my.store")
    read_all()
    memory.put(name, bytes(data))
    with pytest.raises(CorruptStoreError, match=problem):
        read_all()
    memory.put(name, bytes(data[:-9]))
    with pytest.raises(CorruptStoreError):
        read_all()
    memory.remove(name)
    with pytest.raises(CorruptStoreError, match="it is not there"):
        read_all()


def test_urls():
    assert parse_url("s3://bucket/a/my+store/") == "s3://bucket/a/my+store"
    assert parse_url("s3:/bucket/a") == "s3://bucket/a"
    assert parse_url("a/b.store") is None
    assert parse_url("/a/b.store") is None
    assert parse_url("table:/a/b.csv") is None
    with pytest.raises(UsageError, match=r"(?s)kind of URL.*a folder of this machine as a path"):
        parse_url("file:///a/b.store")
    for bad in (
        "ftp://a/b",
        "s3://a/../b",
        "s3://a//b",
        "http://a/b?token=1",
        "http://me:word@a/b",
        "s3://a/b#c",
    ):
        with pytest.raises(UsageError) as told:
            parse_url(bad)
        assert "word" not in str(told.value)


def test_nothing_at_a_url(memory, tmp_path):
    write_random_store(tmp_path / "a", images=4)
    for text in (memory.url, f"{tmp_path}/a+{memory.url}"):
        with pytest.raises(StoreNotFoundError, match="there is no store here") as told:
            open_store(text)
        assert str(told.value).startswith(memory.url)


def test_a_mark_outside_the_cache_folder_is_not_followed(tmp_path):
    """A folder that somebody else made cannot make a reader fetch anything."""
    write_random_store(tmp_path / "x" / "store", images=4)
    (tmp_path / "x" / "remote.json").write_text('{"url": "http://127.0.0.1:9/x"}')
    assert open_store(tmp_path / "x" / "store")["vision"].read("tokens", 0, 4).shape == (4, 9, 16)


def test_names_in_a_listing_do_not_leave_the_mirror(memory, tmp_path, cache):
    write_random_store(tmp_path / "my.store", images=10)
    memory.copy(tmp_path / "my.store")
    memory.put("features/..evil/header.json", b"{}")
    memory.put("features/vision/units/../../../../evil.json", b"{}")
    memory.put("tables/images/part-00001.parquet.exe", b"x")
    store = open_store(memory.url)
    assert store.features() == ("vision", "words")
    assert len(store.images()) == 10
    assert not [p for p in cache.rglob("*") if "evil" in p.name or p.suffix == ".exe"]
