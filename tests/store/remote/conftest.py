"""Places of remote stores: fsspec's memory, a real S3-compatible server, a web server with ranges."""

from __future__ import annotations

import http.server
import logging
import os
import re
import secrets
import threading
from pathlib import Path

import numpy as np
import pytest

from embedstore.store import FeatureWriter, create_store
from embedstore.store.remote import objects as remote
from embedstore.store.remote.mirror import _mirrors, _remotes
from embedstore.store.remote.plan import publish_plan, written_at
from embedstore.testing.stores import random_plan, random_tables


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, no proxies, nobody's credentials, and no waiting between tries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("FSSPEC_", "EMBEDSTORE_CACHE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMBEDSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    yield tmp_path / "cache"
    _mirrors.clear()
    _remotes.clear()


@pytest.fixture(scope="session")
def s3_server():
    """Where moto's S3 server listens, on loopback."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    yield f"http://{host}:{port}"
    threaded.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """fsspec's view of the server, and a URL below a new bucket."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", os.devnull),
        ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
    ):
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"b{secrets.token_hex(6)}"
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.mkdir(bucket)
    return Place(f"s3://{bucket}/deep/my.store", system)


@pytest.fixture
def memory():
    """A URL of fsspec's memory, which is of this process."""
    import fsspec

    return Place(f"memory://{secrets.token_hex(6)}/my.store", fsspec.filesystem("memory"))


class Place:
    """A URL, and the objects below it as they are."""

    def __init__(self, url, system):
        self.url, self.system = url, system
        self.base = url.partition("://")[2]
        if url.startswith("memory"):
            self.base = f"/{self.base}"

    def objects(self):
        """Every object's name below the URL, and its bytes."""
        found = self.system.find(self.base)
        return {name[len(self.base) + 1 :]: self.system.cat_file(name) for name in found}

    def put(self, name, data):
        self.system.pipe_file(f"{self.base}/{name}", data)

    def remove(self, name):
        self.system.rm_file(f"{self.base}/{name}")

    def copy(self, folder):
        """Have a local store there."""
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())
        return self.url


def local_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def write_remote(url, kit, seed=0):
    """The store of `kit.run_whole`, written at a URL as encode does."""
    plan = random_plan(images=kit.images, captions=kit.captions)
    pictures, words = random_tables(
        images=kit.images, captions=kit.captions, classes=np.arange(kit.images) % 4
    )
    with written_at(url, what="a test") as place:
        publish_plan(place, made=create_store(place, plan, images=[pictures], texts=[words]))
        for header in kit.headers(plan):
            kit.write_missing(FeatureWriter.open(place, header), seed)


class Tools:
    local_files = staticmethod(local_files)
    write_remote = staticmethod(write_remote)
    Place = Place


@pytest.fixture(scope="session")
def tools():
    return Tools


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with byte ranges and listings; `faults` answers are cut off in the middle."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        self.server.seen.append((self.path, self.headers.get("Range")))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not path.is_file() or found is None or not self.server.ranges:
            super().do_GET()
            return
        data = path.read_bytes()[int(found[1]) : int(found[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{path.stat().st_size}")
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        if self.server.faults:
            self.server.faults -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def list_directory(self, path):
        if self.server.listing == 200:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if self.server.listing:
            self.send_error(self.server.listing)
            return None
        return super().list_directory(path)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web(tmp_path):
    """A web server over `tmp_path / "www"`: its address, and what it does wrong."""
    (tmp_path / "www").mkdir()

    def handler(*arguments):
        return _Ranges(*arguments, directory=str(tmp_path / "www"))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.faults, server.ranges, server.listing, server.seen = 0, True, None, []
    server.folder, server.url = tmp_path / "www", f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
