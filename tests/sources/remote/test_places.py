"""Tables and folders behind URLs give the samples that they give on a disk."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedstore.errors import RemoteError, SourceError, UnreadableImage, UsageError
from embedstore.sources import open_source
from embedstore.sources.reading.files import RemoteFile, at
from embedstore.testing.sources import SourceContract

NAMES = ["cat/b.png", "dog/a.png", "dog/c ü.jpg"]


def encoded(name, size=(6, 4)):
    out = io.BytesIO()
    Image.new("RGB", size, f"#{len(name):02x}8040").save(out, "PNG" if name.endswith("png") else "JPEG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(name))
    (root / "notes.txt").write_text("hello")
    (root / ".hidden.png").write_bytes(b"")
    rows = [{"image": n, "caption": f"words of {n}"} for n in NAMES] + [
        {"image": NAMES[0], "caption": "more"}
    ]
    (root / "captions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "t.csv").write_text("image,caption\n" + "".join(f"{r['image']},{r['caption']}\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), root / "t.parquet")
    held = [{"image": {"bytes": encoded(n), "path": n}, "caption": n} for n in NAMES]
    pq.write_table(pa.Table.from_pylist(held), root / "held.parquet", row_group_size=2)
    return root


@pytest.fixture(params=["memory", "s3"])
def place(request, folder):
    here = request.getfixturevalue(request.param)
    here.copy(folder)
    return here


def facts(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.id, s.picture and s.picture.ref, s.captions, s.label, s.split) for s in samples]


def pixels(source):
    return [source[i].picture.open().tobytes() for i in range(len(source))]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("memory", ""),
        ("memory", "t.csv"),
        ("memory", "t.parquet"),
        ("memory", "held.parquet"),
        ("memory", "captions.jsonl"),
        ("s3", ""),
        ("s3", "held.parquet"),
    ],
)
def test_a_url_gives_what_a_path_gives(folder, request, kind, name):
    place = request.getfixturevalue(kind)
    place.copy(folder)
    here = open_source(str(folder / name))
    there = open_source(f"{place.url}/{name}".rstrip("/"))
    assert facts(there) == facts(here)
    assert pixels(there) == pixels(here)
    assert there.identity == here.identity
    assert there.dropped == here.dropped
    pictures = [there[i].picture for i in range(len(there))]
    again = pickle.loads(pickle.dumps(pictures))  # noqa: S301 - our own, as a process that decodes gets it
    assert [picture.open().tobytes() for picture in again] == pixels(here)


class TestContractOfARemoteFolder(SourceContract):
    @pytest.fixture
    def source(self, folder, memory):
        return open_source(memory.copy(folder))


class TestContractOfARemoteTable(SourceContract):
    @pytest.fixture
    def source(self, folder, memory):
        return open_source(f"{memory.copy(folder)}/t.csv")


def test_a_web_server_is_read_too(folder, web):
    for name in NAMES:
        (web.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (web.folder / name).write_bytes((folder / name).read_bytes())
    (web.folder / "t.csv").write_bytes((folder / "t.csv").read_bytes())
    source = open_source(f"{web.url}/t.csv")
    assert facts(source) == facts(open_source(str(folder / "t.csv")))
    assert pixels(source) == pixels(open_source(str(folder / "t.csv")))
    assert [row[0].replace("%20", " ").replace("%C3%BC", "ü") for row in facts(open_source(web.url))] == NAMES


def test_sizes_of_a_folder_come_from_the_list(folder, memory):
    source = open_source(memory.copy(folder))
    assert [source[i].picture.nbytes for i in range(3)] == [len(encoded(n)) for n in NAMES]


def test_planning_a_remote_table_opens_no_picture(folder, memory, monkeypatch):
    memory.copy(folder)
    read = []
    monkeypatch.setattr(RemoteFile, "read_start", lambda self, most: read.append(self))
    source = open_source(f"{memory.url}/t.csv")
    assert [source[i].picture.nbytes for i in range(3)] == [None] * 3
    assert not read


def test_pictures_elsewhere_by_an_image_root(folder, memory):
    memory.copy(folder)
    source = open_source(str(folder / "t.csv"), image_root=Path(memory.url))  # as the command line gives it
    assert isinstance(source[0].picture.places[0], RemoteFile)
    assert pixels(source) == pixels(open_source(str(folder / "t.csv")))


def test_what_is_not_there(memory):
    with pytest.raises(SourceError, match="there is no such table"):
        open_source(f"{memory.url}/t.csv")
    with pytest.raises(SourceError, match="no such folder, or nothing can be listed"):
        open_source(memory.url)
    memory.put("t.csv", b"image\na.png\nb.png\n")
    with pytest.raises(SourceError, match="not one of the first pictures is there"):
        open_source(f"{memory.url}/t.csv")


def test_one_picture_that_is_not_there_is_one_row(folder, place):
    place.copy(folder)
    source = open_source(f"{place.url}/t.csv")
    place.remove(NAMES[1])
    place.put(NAMES[2], b"")
    with pytest.raises(UnreadableImage, match="file not found"):
        source[1].picture.open()
    with pytest.raises(UnreadableImage, match="empty file"):
        source[2].picture.open()
    assert source[0].picture.open().mode == "RGB"


def test_a_server_that_is_gone_is_no_bad_picture(folder, web):
    (web.folder / "a.png").write_bytes(encoded("a.png"))
    (web.folder / "t.csv").write_text("image\na.png\n")
    source = open_source(f"{web.url}/t.csv")
    web.shutdown()
    web.server_close()
    with pytest.raises(RemoteError, match="does not answer"):
        source[0].picture.open()


def test_a_picture_too_large_is_not_read_whole(folder, memory, monkeypatch):
    memory.copy(folder)
    source = open_source(memory.url)
    monkeypatch.setattr("embedstore.sources.reading.pictures.MAX_FILE_BYTES", 10)
    with pytest.raises(UnreadableImage, match="over 10 bytes"):
        source[0].picture.open()


@pytest.mark.parametrize("image", ["../x.png", "https://example.org/x.png", "/etc/x.png"])
def test_a_table_behind_a_url_leads_nowhere_else(memory, image):
    memory.put("t.csv", f"image\n{image}\n".encode())
    with pytest.raises(SourceError, match=r"leaves|URL|absolute"):
        open_source(f"{memory.url}/t.csv")


def test_names_never_leave_their_folder(tmp_path):
    for name in ("..", "a/../../b", "/etc/passwd", "a//b", "a\0b"):
        for place in (at(tmp_path), at("memory://x/y")):
            with pytest.raises(SourceError, match="leaves its folder"):
                place.child(name)


@pytest.mark.parametrize("url", ["ftp://h/x", "s3://b/../c", "https://h/a?token=1", "s3://key:word@b/c"])
def test_urls_that_are_refused(url):
    with pytest.raises(UsageError, match="source") as caught:
        at(url)
    assert "word" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_a_remote_file_is_read_in_windows(memory, monkeypatch):
    window = 64
    data = bytes(range(256)) * 4
    memory.put("x.bin", data)
    asked = []
    read = RemoteFile.read_at
    monkeypatch.setattr(
        RemoteFile, "read_at", lambda self, start, count: asked.append(count) or read(self, start, count)
    )
    with at(f"{memory.url}/x.bin").open(window) as file:
        assert [file.read(10) for _ in range(20)] == [data[k : k + 10] for k in range(0, 200, 10)]
        assert max(asked) == window
        file.seek(-3, io.SEEK_END)
        assert file.read() == data[-3:]
        assert file.read(5) == b""
