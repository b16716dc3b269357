"""A store read from a web server: byte ranges, listings or none, connections that break, and no writing."""

import numpy as np
import pytest

from embedstore.errors import MissingExtraError, RemoteError, StoreNotFoundError, UsageError
from embedstore.store import open_store, verify_store
from embedstore.store.remote import objects as remote
from embedstore.testing.stores import write_random_store

pytest.importorskip("aiohttp")


@pytest.fixture
def served(web):
    """A local store and its address."""
    local = write_random_store(web.folder / "my.store", images=150, captions=2, shard_rows=32)
    return f"{web.url}/my.store", local


def test_everything_is_equal_and_every_byte_is_verified(served):
    url, local = served
    store = open_store(url)
    assert store.features() == ("vision", "words")
    assert store.images().equals(local.images())
    assert np.array_equal(store["vision"].read("tokens", 0, 150), local["vision"].read("tokens", 0, 150))
    ours, theirs = local["words"].text_tokens(range(300)), store["words"].text_tokens(range(300))
    assert np.array_equal(ours.tokens, theirs.tokens)
    assert store.nbytes == local.nbytes
    report = verify_store(url)
    assert report.findings == ()
    assert report.nbytes == verify_store(local.path).nbytes


def test_a_connection_that_breaks_is_tried_again(served, web):
    url, local = served
    web.faults = 2
    store = open_store(url)
    web.faults = 2
    assert np.array_equal(store["vision"].read("tokens", 0, 150), local["vision"].read("tokens", 0, 150))
    assert web.faults == 0
    web.faults = 1000
    with pytest.raises(RemoteError, match="the server does not answer as it should") as told:
        open_store(url)["vision"].read("pooled", 0, 150)
    assert url in str(told.value)
    web.faults = 0
    assert open_store(url)["vision"].read("pooled", 0, 150).shape == (150, 16)


def test_a_server_without_ranges_is_refused_where_they_are_needed(web):
    write_random_store(
        web.folder / "my.store", images=32, image_tokens=64, image_width=512, shard_rows=32, captions=1
    )
    web.ranges = False
    store = open_store(f"{web.url}/my.store")
    assert store["vision"].read("status", 0, 32).sum() == 0
    with pytest.raises(RemoteError, match="does not serve ranges of bytes"):
        store["vision"].read("tokens", 0, 1)


@pytest.mark.parametrize("listing", [403, 404, 200])
def test_a_server_that_lists_nothing_is_told_of(served, web, listing):
    url, _ = served
    web.listing = listing
    with pytest.raises(RemoteError, match=r"access denied: cannot list|does not list folders") as told:
        open_store(url)
    assert f"{url}/features" in str(told.value)


def test_nothing_there_and_nobody_there(web):
    with pytest.raises(StoreNotFoundError, match="there is no store here") as told:
        open_store(f"{web.url}/none")
    assert f"{web.url}/none" in str(told.value)
    with pytest.raises(RemoteError, match="does not answer"):
        open_store("http://127.0.0.1:9/x")


def test_a_changed_file_is_fetched_again(served, web):
    url, _ = served
    first = open_store(url)["vision"].read("tokens", 0, 150)
    other = write_random_store(web.folder / "other", images=150, captions=2, shard_rows=32, noise=0.9)
    (web.folder / "my.store").rename(web.folder / "old")
    (web.folder / "other").rename(web.folder / "my.store")
    import os

    for path in (web.folder / "my.store").rglob("*"):
        os.utime(path, (1, 1))
    second = open_store(url)["vision"].read("tokens", 0, 150)
    assert not np.array_equal(first, second)
    assert other.plan.images == 150
    assert np.array_equal(second, open_store(web.folder / "my.store")["vision"].read("tokens", 0, 150))


def test_nothing_is_written(served):
    url, _ = served
    with pytest.raises(UsageError, match="verify --repair writes, and http is read-only"):
        verify_store(url, repair=True)


def test_an_absent_extra_names_the_line_that_installs_it(monkeypatch):
    import fsspec

    def absent(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    for scheme, extra in (("s3", "remote"), ("gs", "gs"), ("https", "remote")):
        with pytest.raises(MissingExtraError, match=rf"pip install 'embedstore\[{extra}\]'"):
            remote.Remote(f"{scheme}://a/b").stat("plan.json")
