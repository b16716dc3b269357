"""The cache of shards: bounded, shared by threads and processes, and never believed without its checksums."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.errors import StoreError, UsageError
from embedstore.store import open_store
from embedstore.store.reads.chunks import ShardedArray
from embedstore.store.remote.array import RemoteArray
from embedstore.store.remote.cache_folder import cache_bytes, cache_root, own_folder, remove_own
from embedstore.store.remote.objects import Remote
from embedstore.store.remote.shard import RemoteShard
from embedstore.stream.dataset import TokenDataset, TokenStream
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store


def cached(cache):
    return sorted(p for p in (cache / "shards").rglob("*") if p.is_file())


def on_disk(cache):
    return sum(p.stat().st_blocks * 512 for p in cached(cache))


@pytest.fixture
def large(tmp_path, memory):
    """A store of 16 MB of tokens in 8 shards of many chunks, at a URL and here."""
    local = write_random_store(
        tmp_path / "my.store", images=256, captions=1, image_tokens=64, image_width=512, shard_rows=32
    )
    memory.copy(tmp_path / "my.store")
    return memory.url, local


@pytest.mark.parametrize("megabytes", [6, 1])
def test_the_bound_is_obeyed_at_any_time(large, cache, monkeypatch, megabytes):
    url, local = large
    most = megabytes * 1_000_000
    monkeypatch.setenv("EMBEDSTORE_CACHE_GB", str(most / 1e9))
    feature = open_store(url)["vision"]
    random = np.random.default_rng(0)
    whole = local["vision"].read("tokens", 0, 256)
    seen = []
    for _ in range(12):
        rows = random.permutation(256)[:48]
        assert np.array_equal(feature.gather("tokens", rows), whole[rows])
        seen.append(on_disk(cache))
    assert max(seen) <= most * 1.05
    # What was given up is closed too, so that its space is free.
    held = feature.array("tokens")._open.values()
    assert sum(shard.evicted() for shard in held) <= 8
    assert max(seen) > most / 3


def test_what_was_used_last_stays(large, cache, monkeypatch):
    url, _ = large
    tokens = open_store(url)["vision"].array("tokens")
    for number in range(3):
        tokens.read(32 * number, 32 * number + 32)
        (path,) = set(cached(cache)) - {p for p in cached(cache) if p.stat().st_mtime < 100}
        os.utime(path, (50 + number, 50 + number))
    oldest, middle, newest = sorted(cached(cache), key=lambda p: p.stat().st_mtime)
    size = newest.stat().st_blocks * 512
    monkeypatch.setenv("EMBEDSTORE_CACHE_GB", str(3.2 * size / 1e9))
    open_store(url)["vision"].array("tokens").read(100, 101)
    open_store(url)["vision"].array("tokens").read(96, 128)
    assert (oldest.exists(), newest.exists()) == (False, True)
    assert middle.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "marks"])
def test_a_damaged_cache_file_is_fetched_again(large, cache, damage):
    url, local = large
    open_store(url)["vision"].read("tokens", 0, 40)
    whole = local["vision"].read("tokens", 0, 256)
    held = open_store(url)["vision"]
    held.read("tokens", 0, 1)
    for path in cached(cache):
        size = path.stat().st_size
        with path.open("r+b") as file:
            if damage == "cut":
                file.truncate(size // 2)
            elif damage == "empty":
                file.truncate(0)
            elif damage == "flip":
                file.write(b"\x55" * 4096)
            else:
                file.seek(size - 20)
                file.write(b"\1" * 20)
    readers = [held, open_store(url)["vision"]]
    # What a reader has tested once it believes, as of a local file; only a file that is cut it cannot miss.
    for feature in readers if damage in ("cut", "empty") else readers[::-1]:
        assert np.array_equal(feature.read("tokens", 0, 256), whole)


def test_what_was_tested_in_a_new_file_is_not_believed_of_an_evicted_one(large, monkeypatch):
    """A thread still reads a file that the cache has given up, while another fetches the shard again."""
    url, local = large
    array, real, left = open_store(url)["vision"].array("tokens"), RemoteShard.bring, [1]

    def bring(shard, chunks):
        real(shard, chunks)
        if left and left.pop():
            os.pwrite(shard.handle, b"\x55" * 4096, int(shard.offsets[1]))
            shard._path.unlink()
            other = threading.Thread(target=array.read, args=(2, 4))
            other.start()
            other.join()

    monkeypatch.setattr(RemoteShard, "bring", bring)
    np.testing.assert_array_equal(array.read(2, 4), local["vision"].read("tokens", 2, 4))
    assert left == []


def test_threads_read_through_one_array(large):
    url, local = large
    whole, feature, wrong = local["vision"].read("tokens", 0, 256), open_store(url)["vision"], []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(6):
            rows = random.integers(0, 256, 20)
            wrong.extend([] if np.array_equal(feature.gather("tokens", rows), whole[rows]) else [rows])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


READ = """
import sys, numpy as np
from embedstore.store import open_store
feature, random = open_store(sys.argv[1])["vision"], np.random.default_rng(int(sys.argv[2]))
whole = np.load(sys.argv[3])
for _ in range(8):
    rows = random.permutation(len(whole))[:20]
    assert np.array_equal(feature.gather("tokens", rows), whole[rows])
"""


def test_several_processes_share_a_cache_that_is_far_too_small(s3, tmp_path, cache):
    local = write_random_store(
        tmp_path / "my.store", images=64, captions=0, image_tokens=64, image_width=256, shard_rows=32
    )
    s3.copy(tmp_path / "my.store")
    np.save(tmp_path / "whole.npy", local["vision"].read("tokens", 0, 64))
    environment = os.environ | {"EMBEDSTORE_CACHE_GB": "0.0006"}
    command = [sys.executable, "-c", READ, s3.url]
    readers = [
        subprocess.Popen([*command, str(seed), str(tmp_path / "whole.npy")], env=environment)
        for seed in (1, 2)
    ]
    assert [reader.wait() for reader in readers] == [0, 0]
    assert on_disk(cache) <= 2 * 600_000


def test_streams_of_a_remote_store_give_the_same_batches(large, cache):
    url, local = large
    store = open_store(url)
    for shuffle in ("blocks", "full", "none"):
        options = {"batch_size": 24, "seed": 3, "shuffle": shuffle, "buffer_mb": 8}
        ours, theirs = TokenStream(local["vision"], **options), TokenStream(store["vision"], **options)
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.rows, other.rows)
            assert torch.equal(one.tokens, other.tokens)
    pairs = {"image": "vision", "text": "words", "rows": np.arange(256), "batch_size": 32}
    for one, other in zip(
        PairStream(local, **pairs).epoch(1), PairStream(store, **pairs).epoch(1), strict=True
    ):
        assert torch.equal(one.image.tokens, other.image.tokens)
        assert torch.equal(one.text.tokens, other.text.tokens)
        assert torch.equal(one.text.offsets, other.text.offsets)


def test_the_next_group_is_fetched_while_the_present_one_is_used(large, monkeypatch):
    """Every chunk comes once, many requests are in flight, and what is read ahead is not asked for again."""
    url, _ = large
    lock, asked, flying, most = threading.Lock(), [], [0], [0]
    real = Remote.read_range

    def read(self, name, start, stop):
        with lock:
            asked.append((name, start, stop))
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        try:
            threading.Event().wait(0.002)
            return real(self, name, start, stop)
        finally:
            with lock:
                flying[0] -= 1

    monkeypatch.setattr(Remote, "read_range", read)
    stream = TokenStream(open_store(url)["vision"], batch_size=16, buffer_mb=8, threads=2)
    stream._block = 4
    assert sum(len(batch.rows) for batch in stream) == 256
    tokens = [(name, start) for name, start, _ in asked if "/tokens/c/" in name]
    assert len(tokens) == len(set(tokens))
    assert most[0] > 2


@pytest.mark.parametrize("direct_io", [False, True])
def test_what_is_not_read_past_the_page_cache_is_asked_for_ahead(large, monkeypatch, direct_io):
    url, local = large
    asked = []
    for kind in (ShardedArray, RemoteArray):
        monkeypatch.setattr(kind, "advise", lambda array, *span: asked.append(array.spec.name))
    monkeypatch.setattr(ShardedArray, "in_memory", lambda array, place: False)
    pairs = {"image": "vision", "text": "words", "rows": np.arange(256), "batch_size": 32, "buffer_mb": 8}
    for store, direct in ((local, direct_io), (open_store(url), False)):
        asked.clear()
        assert len(list(TokenStream(store["vision"], batch_size=16, buffer_mb=8, direct_io=direct_io))) == 16
        assert set(asked) == ({"prefix"} if direct else {"prefix", "tokens"})
        assert len(list(PairStream(store, **pairs, direct_io=direct_io).epoch(0))) == 8
        assert "tokens" in asked
        texts = TokenStream(store["words"], batch_size=16, buffer_mb=0.01, direct_io=direct_io)
        asked.clear()
        assert len(list(texts)) == 16
        assert set(asked) == {"tokens"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_data_loader_workers_read_a_remote_store(s3, tmp_path, method):
    local = write_random_store(tmp_path / "my.store", images=20, captions=1)
    data = TokenDataset(s3.copy(tmp_path / "my.store"), "vision")
    before = data[3]["tokens"]
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=4,
        num_workers=2 if method == "fork" else 1,
        collate_fn=TokenDataset.collate,
        multiprocessing_context=method,
    )
    found = torch.cat([batch["tokens"] for batch in loader])
    assert torch.equal(found, torch.from_numpy(local["vision"].read("tokens", 0, 20)).float())
    assert torch.equal(found[3], before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_open_feature_is_read_on_in_a_fork(s3, tmp_path):
    local = write_random_store(tmp_path / "my.store", images=64, shard_rows=32)
    feature = open_store(s3.copy(tmp_path / "my.store"))["vision"]
    feature.read("tokens", 0, 3)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = np.array_equal(feature.read("tokens", 0, 64), local["vision"].read("tokens", 0, 64))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path, cache):
    made = "from embedstore.store.remote.cache_folder import own_folder\nprint(own_folder(), flush=True)\n"
    command = [sys.executable, "-c", f"{made}input()"]
    living = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    theirs = Path(living.stdout.readline().strip())
    # Begun after the other has looked for what is left, which it would remove.
    dead = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    left = Path(dead.stdout.strip())
    elsewhere = left.with_name("othermachine-0123456789abcdef")
    left.rename(left.with_name(left.name + "f"))
    (elsewhere / "lock").parent.mkdir()
    (elsewhere / "lock").touch()
    ours = own_folder()
    assert {p.name for p in (cache / "stores" / "own").iterdir()} == {ours.name, theirs.name, elsewhere.name}
    remove_own(ours)
    assert not ours.exists()
    living.communicate("\n")


def test_a_shard_without_a_version_is_of_one_process_though_its_number_comes_again():
    def name_in(process, tag):
        place = f"ShardCache(Path(''), 1).path('s3://b/s', 'c/0', Stat(5, {tag!r}))"
        lines = [
            "import os",
            "from pathlib import Path",
            "from embedstore.store.remote.shard_cache import ShardCache",
            "from embedstore.store.remote.objects import Stat",
            f"os.getpid = lambda: {process}",
            f"print({place}, {place} == {place})",
        ]
        made = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, check=True)
        return made.stdout.decode().split()

    first, again = name_in(7, ""), name_in(7, "")
    assert first[1] == again[1] == "True"
    assert first[0] != again[0]
    assert name_in(7, "ETag a") == name_in(8, "ETag a")


def test_bad_sizes_and_places_of_the_cache(monkeypatch, memory, tmp_path):
    for bad in ("0", "-1", "much", "nan"):
        monkeypatch.setenv("EMBEDSTORE_CACHE_GB", bad)
        with pytest.raises(UsageError, match="bad size of the cache"):
            cache_bytes()
    monkeypatch.setenv("EMBEDSTORE_CACHE_GB", "0.25")
    assert cache_bytes() == 250_000_000
    monkeypatch.delenv("EMBEDSTORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_root() == tmp_path / "xdg" / "embedstore" / "remote"
    write_random_store(tmp_path / "my.store", images=4)
    memory.copy(tmp_path / "my.store")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDSTORE_CACHE", str(tmp_path / "file"))
    with pytest.raises((StoreError, OSError), match="file"):
        open_store(memory.url)
