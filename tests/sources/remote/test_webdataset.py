"""Tar shards behind URLs."""

from __future__ import annotations

import gzip
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from embedstore.errors import RemoteError, SourceError
from embedstore.sources import open_source
from embedstore.sources.reading import shards
from embedstore.sources.reading.files import RemoteFile
from embedstore.testing.sources import SourceContract

webdataset = pytest.importorskip("webdataset")


def noise(number):
    out = io.BytesIO()
    Image.effect_noise((40, 40 + number), 80).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "s-%02d.tar"), maxcount=8, verbose=0) as out:
        for i in range(20):
            out.write({"__key__": f"{i:03d}", "png": noise(i), "txt": f"noise {i}"})
    return folder


def facts(source):
    return [
        (source[i].id, source[i].captions, source[i].picture.open().tobytes()) for i in range(len(source))
    ]


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, written, memory):
        return open_source(f"{memory.copy(written)}/s-{{00..02}}.tar")


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("memory", "s-{00..02}.tar"), ("memory", "s-*.tar"), ("memory", "s-0?.tar"), ("s3", "s-{00..02}.tar")],
)
def test_a_url_gives_what_a_path_gives(written, kind, pattern, request):
    place = request.getfixturevalue(kind)
    there, here = (
        open_source(f"webdataset:{place.copy(written)}/{pattern}"),
        open_source(f"{written}/{pattern}"),
    )
    assert facts(there) == facts(here)
    assert not there.shuffled
    assert there.identity == here.identity


def test_a_web_server_and_gzip(written, web):
    for path in written.glob("*.tar"):
        (web.folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert facts(open_source(f"{web.url}/s-{{00..02}}.tar.gz")) == facts(open_source(str(written)))


def test_neighbours_come_in_one_request(written, memory, monkeypatch):
    source = open_source(f"webdataset:{memory.copy(written)}")
    monkeypatch.setattr(shards, "WINDOW_BYTES", 30_000)
    asked, read = [], RemoteFile.read_at
    monkeypatch.setattr(
        RemoteFile, "read_at", lambda self, start, count: asked.append(count) or read(self, start, count)
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: source[i].picture.open(), range(20)))
    total = sum(path.stat().st_size for path in written.glob("*.tar"))
    assert max(asked) <= 30_000
    assert sum(asked) <= total
    asked.clear()
    at_random = open_source(f"webdataset:{memory.url}?order=shuffled")
    asked.clear()
    picture = at_random[3].picture
    picture.open()
    assert asked == [picture.nbytes]


def test_headers_alone_cross_the_network(memory, monkeypatch, tmp_path):
    (tmp_path / "w").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "w" / "s-%02d.tar"), maxcount=8, verbose=0) as out:
        for i in range(8):
            out.write({"__key__": str(i), "jpg": bytes(1 << 20), "txt": "x"})
    memory.copy(tmp_path / "w")
    asked, read = [], RemoteFile.read_at
    monkeypatch.setattr(
        RemoteFile, "read_at", lambda self, start, count: asked.append(count) or read(self, start, count)
    )
    open_source(f"{memory.url}/s-00.tar")
    assert sum(asked) < 10 * shards.HEADER_WINDOW


def test_shards_that_are_not_there(written, memory):
    memory.copy(written)
    with pytest.raises(SourceError, match="2 of 5 tar shards are not there"):
        open_source(f"{memory.url}/s-{{00..04}}.tar")


def test_a_server_that_goes_away_is_no_bad_picture(written, web):
    (web.folder / "s.tar").write_bytes((written / "s-00.tar").read_bytes())
    source = open_source(f"{web.url}/s.tar")
    web.shutdown()
    web.server_close()
    with pytest.raises(RemoteError, match="does not answer"):
        source[0].picture.open()
