"""Tar shards written by the webdataset library and by tarfile, and what hostile ones come to."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import pickle
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from PIL import Image

from embedstore.encode.plan import plan_source
from embedstore.errors import SourceError, UnknownNameError, UnreadableImage, UsageError
from embedstore.sources import open_source
from embedstore.sources.reading import shards
from embedstore.sources.reading.files import LocalFile
from embedstore.sources.webdataset.source import WebDatasetSource
from embedstore.testing.sources import SourceContract

webdataset = pytest.importorskip("webdataset")


def encoded(number, kind="JPEG", size=(12, 8)):
    out = io.BytesIO()
    Image.new("RGB", size, f"#{number % 256:02x}{(7 * number) % 256:02x}40").save(out, kind)
    return out.getvalue()


def tar(path, files, mode="w"):
    """A tar written by Python's own writer: `files` are (name, bytes), or (name, link target)."""
    with tarfile.open(path, mode) as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                out.addfile(info)
            else:
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def one(tmp_path, *files, **options):
    return WebDatasetSource(tar(tmp_path / "x.tar", files), **options)


def read_by_the_library(path):
    with path.open("rb") as file:
        opened = [{"url": path.name, "stream": file}]
        yield from webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander(opened))


def facts(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.id, s.picture and s.picture.ref, s.captions, s.label, s.split) for s in samples]


def texts(source):
    return [[c.text for c in source[i].captions] for i in range(len(source))]


@pytest.fixture
def written(tmp_path):
    """Three shards of the webdataset library, 24 samples, in every kind of picture."""
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    with webdataset.ShardWriter(str(tmp_path / "s-%04d.tar"), maxcount=10, verbose=0) as out:
        for i in range(24):
            ending = list(kinds)[i % 3]
            sample = {"__key__": f"pics/{i:06d}", ending: encoded(i, kinds[ending]), "txt": f"words of {i} é"}
            if i % 2:
                sample["json"] = {
                    "caption": "not taken",
                    "label": i % 5,
                    "language": "de",
                    "url": "https://x",
                }
            else:
                sample["cls"] = i % 5
            out.write(sample)
    return tmp_path


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, written):
        return open_source(str(written / "s-{0000..0002}.tar"))


class TestContractGzipped(SourceContract):
    @pytest.fixture
    def source(self, written):
        for path in written.glob("*.tar"):
            path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        return open_source(f"webdataset:{written}/s-*.tar.gz?split=val")


def test_samples_are_those_that_the_library_reads(written):
    source = open_source(str(written))
    theirs = [sample for path in sorted(written.glob("*.tar")) for sample in read_by_the_library(path)]
    assert [source[i].id for i in range(len(source))] == [sample["__key__"] for sample in theirs]
    for i, sample in enumerate(theirs):
        found = source[i]
        ending = found.picture.ref.rpartition(".")[2]
        assert found.picture.nbytes == len(sample[ending])
        with Image.open(io.BytesIO(sample[ending])) as picture:
            assert found.picture.open().tobytes() == picture.convert("RGB").tobytes()
        assert [c.text for c in found.captions] == [sample["txt"].decode()]
        assert found.label == str(i % 5)
        assert found.captions[0].language == ("de" if i % 2 else "en")
    assert source.classes == ("0", "1", "2", "3", "4")
    assert source.dropped == {}


def test_planning_reads_headers_and_texts_only(tmp_path, monkeypatch):
    big = b"\xff\xd8\xff" + os.urandom(3 << 20)
    path = tar(
        tmp_path / "x.tar", [(f"{i}.{e}", d) for i in range(4) for e, d in (("jpg", big), ("txt", b"t"))]
    )
    read = []
    opened = LocalFile.open

    class Counting(io.BufferedReader):
        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(LocalFile, "open", lambda self, window=0: Counting(opened(self).detach()))
    source = WebDatasetSource(path)
    plan = plan_source(source)
    assert (plan.plan.images, plan.plan.texts) == (4, 4)
    assert sum(read) < 16_000
    assert path.stat().st_size > 12 << 20


def test_memory_is_some_bytes_a_sample_and_its_texts(tmp_path):
    words, count = "w" * 50, 3000
    files = [
        (f"{i:06d}.{e}", d) for i in range(count) for e, d in (("jpg", bytes(5000)), ("txt", words.encode()))
    ]
    path = tar(tmp_path / "x.tar", files)
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    source = WebDatasetSource(path)
    gc.collect()
    python, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == count
    assert pa.total_allocated_bytes() - arrow < count * 100  # the words, the id, and where each begins
    assert python < count * 60 + 100_000


def test_order_is_shuffled_where_reading_at_random_is_cheap(written):
    assert open_source(str(written)).shuffled
    assert not open_source(f"webdataset:{written}?order=source").shuffled
    path = written / "s-0000.tar"
    (written / "z.tgz").write_bytes(gzip.compress(path.read_bytes()))
    assert not open_source(str(written / "z.tgz")).shuffled
    with pytest.raises(UsageError, match="own order"):
        open_source(f"{written / 'z.tgz'}?order=shuffled")


def test_a_picture_is_read_in_another_process_and_by_threads(written):
    source = open_source(f"webdataset:{written}")
    pixels = [source[i].picture.open().tobytes() for i in range(24)]
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: again[i].picture.open().tobytes(), range(24))) == pixels


def test_splits_and_ids_by_options(written):
    source = open_source(f"{written}/s-0000.tar?split=val&ids=shard")
    assert source[3].split == "val"
    assert source[3].id == "s-0000/pics/000003"
    assert source[3].picture.ref == "s-0000/pics/000003.jpg"
    assert dict(source.identity) == {"kind": "webdataset", "language": "en", "ids": "shard", "split": "val"}


def test_shards_that_each_count_from_zero(tmp_path):
    for shard in "ab":
        tar(tmp_path / f"{shard}.tar", [("0.jpg", encoded(0)), ("1.jpg", encoded(1))])
    with pytest.raises(SourceError, match=r"a\.tar and b\.tar: two samples share an id") as caught:
        open_source(str(tmp_path))
    assert "ids=shard" in str(caught.value)
    source = open_source(f"webdataset:{tmp_path}?ids=shard")
    assert [source[i].id for i in range(4)] == ["a/0", "a/1", "b/0", "b/1"]


def test_columns_name_endings_and_keys_of_json(tmp_path):
    said = {"title": "a dog", "uid": 77, "kind": "dog", "long": ["one", "two"], "part": "test"}
    files = [
        ("k.left.png", encoded(1, "PNG")),
        ("k.JPG", encoded(2)),
        ("k.meta.json", json.dumps(said).encode()),
    ]
    columns = {
        "image": "left.png",
        "caption": "meta.json:title",
        "label": "meta.json:kind",
        "id": "meta.json:uid",
        "split": "meta.json:part",
    }
    source = one(tmp_path, *files, columns=columns)
    (found,) = facts(source)
    assert (found[0], found[1], found[3], found[4]) == ("77", "k.left.png", "dog", "test")
    assert texts(source) == [["a dog"]]
    assert texts(one(tmp_path, *files, columns={"captions": "meta.json:long"})) == [["one", "two"]]
    assert one(tmp_path, *files, columns={"caption": "meta.json:title"})[0].picture.ref == "k.jpg"
    with pytest.raises(UnknownNameError, match="unknown column 'capton'"):
        one(tmp_path, *files, columns={"capton": "txt"})
    with pytest.raises(UsageError, match="no JSON value"):
        one(tmp_path, *files, columns={"image": "json:data"})
    with pytest.raises(SourceError, match="no id in this sample"):
        one(tmp_path, *files, columns={"id": "json:nothing"})


def test_captions_of_the_json(tmp_path):
    source = one(
        tmp_path,
        ("a.jpg", encoded(1)),
        ("a.json", b'{"captions": ["one", " ", "two"], "caption": "three"}'),
        ("b.json", b'{"caption": "alone"}'),
        ("c.txt", b"\xef\xbb\xbf marked \n"),
        ("c.json", b'{"caption": "three"}'),
    )
    assert texts(source) == [["one", "two"], ["alone"], ["marked"]]
    assert [source[i].picture is None for i in range(3)] == [False, True, True]
    assert source.dropped == {"empty captions": 1}


def test_members_in_any_order_are_one_sample(tmp_path):
    source = one(tmp_path, ("b.jpg", encoded(1)), ("a.jpg", encoded(2)), ("./a.txt", b"A"), ("b.txt", b"B"))
    assert [(f[0], f[2][0].text) for f in facts(source)] == [("b", "B"), ("a", "A")]


def test_names_that_lead_out_and_links_are_left_out(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encoded(9))
    source = one(
        tmp_path,
        ("good.jpg", encoded(1)),
        ("../up.jpg", encoded(2)),
        ("a/../../up.jpg", encoded(2)),
        ("/etc/abs.jpg", encoded(3)),
        ("link.jpg", str(secret)),
        ("..\\win.jpg", encoded(4)),
        (".hidden.jpg", encoded(4)),
        ("__meta__.json", b"{}"),
    )
    assert [f[0] for f in facts(source)] == ["good"]
    assert source.dropped == {
        "names that lead out of the tar": 4,
        "links in tars": 1,
        "members that belong to no sample": 1,
    }


def test_texts_that_are_none_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("embedstore.sources.webdataset.scan.MOST_BYTES", 1000)
    files = [
        ("nul.txt", b"a\0b"),
        ("latin.txt", "é".encode("latin-1")),
        ("huge.txt", b"x" * 1001),
        ("number.json", b'{"caption": 3}'),
        ("list.json", b"[1]"),
        ("cut.json", b'{"caption": "x'),
        ("deep.json", b"[" * 900),
        ("half.json", b'{"caption": "\\ud800"}'),
        ("mixed.json", b'{"captions": ["x", 3, null, ["y"]]}'),
        ("flat.json", b'{"captions": "x"}'),
        ("label.json", b'{"caption": "x", "label": [1], "language": "no language"}'),
    ]
    source = one(tmp_path, *[(f"{n.partition('.')[0]}.jpg", encoded(1)) for n, _ in files], *files)
    kept = {f[0]: [c.text for c in f[2]] for f in facts(source) if f[2]}
    assert kept == {"mixed": ["x"], "label": ["x"]}
    assert len(source) == len(files)
    assert source.dropped == {
        "captions with a NUL byte": 1,
        "captions that are not UTF-8": 2,
        "texts that are too long": 1,
        "captions that are no text": 3,
        "json that cannot be read, or is no object": 3,
        "captions that are no list": 1,
        "labels that are no text": 1,
        "languages that are no tag, e.g. en": 1,
    }


def test_a_member_that_stands_twice(tmp_path):
    with pytest.raises(SourceError, match=r"x\.tar: a member stands twice") as caught:
        one(tmp_path, ("a.jpg", encoded(1)), ("a.JPG", encoded(2)))
    assert "a.jpg" in str(caught.value)


def test_pictures_that_cannot_be_read_are_rows(tmp_path, monkeypatch):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    source = one(tmp_path, ("bomb.png", bomb.getvalue()), ("no.jpg", b"no picture"), ("void.webp", b""))
    for i, reason in enumerate(["decompression bomb", "not an image", "empty file"]):
        with pytest.raises(UnreadableImage, match=reason):
            source[i].picture.open()
    monkeypatch.setattr("embedstore.sources.reading.pictures.MAX_FILE_BYTES", 5)
    with pytest.raises(UnreadableImage, match="over 5 bytes"):
        source[1].picture.open()


def test_too_much_text_in_one_tar(tmp_path, monkeypatch):
    monkeypatch.setattr("embedstore.sources.webdataset.scan.MOST_TEXT", 100)
    with pytest.raises(SourceError, match="too much text"):
        one(tmp_path, *[(f"{i}.txt", b"x" * 30) for i in range(4)])


def test_tars_that_hold_no_samples(tmp_path):
    with pytest.raises(SourceError, match="no samples in these tars") as caught:
        one(tmp_path, ("a.cbor", b"x"), ("b.cbor", b"x"), ("c.npy", b"x"))
    assert "2 .cbor, 1 .npy" in str(caught.value)
    assert "--column" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "an empty file"),
        (b"BZh91AY&SY", "compressed by bzip2"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"\x28\xb5\x2f\xfd..", "compressed by zstd"),
        (b"PK\x03\x04..", "compressed by zip"),
        (b"<html>" * 200, "not a tar"),
        (gzip.compress(b"<html>" * 200, mtime=0), "not a tar"),
        (gzip.compress(b"", mtime=0), "an empty file"),
        (b"\x1f\x8b" + b"x" * 50, "a damaged gzip stream"),
    ],
)
def test_files_that_are_no_tars(tmp_path, data, problem):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(SourceError, match=problem) as caught:
        WebDatasetSource(tmp_path / "x.tar")
    assert "x.tar" in str(caught.value)


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_cut_tar(tmp_path, gzipped):
    data = tar(tmp_path / "x.tar", [(f"{i}.jpg", os.urandom(3000)) for i in range(9)]).read_bytes()
    (tmp_path / "cut.tar").write_bytes(gzip.compress(data)[:9_000] if gzipped else data[:9_000])
    with pytest.raises(SourceError, match="cut off"):
        WebDatasetSource(tmp_path / "cut.tar")


def test_a_gzip_bomb_ends_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GZ_FREE_BYTES", 1 << 20)
    info = tarfile.TarInfo("a.jpg")
    info.size = 64 << 20
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(64 << 20)))
    with pytest.raises(SourceError, match="decompression bomb"):
        WebDatasetSource(path)


def test_gzipped_tars_give_every_picture_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "KEPT_BYTES", 20_000)
    files = [(f"{i:03d}.png", encoded(i, "PNG", (60, 40 + i % 9))) for i in range(60)]
    tar(tmp_path / "plain.tar", files)
    data = (tmp_path / "plain.tar").read_bytes()
    # Several gzip streams that follow each other, as parallel writers make them.
    (tmp_path / "z.tar.gz").write_bytes(gzip.compress(data[:9999]) + gzip.compress(data[9999:]) + bytes(7))
    plain, packed = WebDatasetSource(tmp_path / "plain.tar"), WebDatasetSource(tmp_path / "z.tar.gz")
    assert facts(plain) == facts(packed)
    for i in [*range(60), 5, 59, 0, 30, 29]:
        assert packed[i].picture.open().tobytes() == plain[i].picture.open().tobytes()


def test_a_tar_that_changes_is_noticed(tmp_path):
    source = one(tmp_path, ("a.jpg", encoded(1)))
    tar(tmp_path / "x.tar", [("b.jpg", encoded(2, size=(50, 50)))])
    with pytest.raises(SourceError, match="changed while it was read"):
        source[0].picture.open()


def test_numbers_of_classes_stand_in_their_order(tmp_path):
    source = one(
        tmp_path, *[(f"{i}.cls", str(i).encode()) for i in (10, 9)], *[(f"{i}.jpg", b"") for i in (10, 9)]
    )
    assert source.classes == ("9", "10")


@pytest.mark.parametrize("gzipped", [False, True])
def test_one_picture_goes_to_a_process_without_its_neighbours(tmp_path, gzipped):
    for k in range(50):
        tar(tmp_path / f"{k:03d}.tar", [(f"{k}-{i}.png", encoded(i, "PNG")) for i in range(3)])
    if gzipped:
        (tmp_path / "000.tar").write_bytes(gzip.compress((tmp_path / "000.tar").read_bytes()))
    source = open_source(str(tmp_path))
    sent = [pickle.dumps(source[i].picture) for i in (0, 1, 77)]
    assert max(map(len, sent)) < 1_500
    for i, data in zip((0, 1, 77), sent, strict=True):
        there, here = pickle.loads(data), source[i].picture  # noqa: S301 - our own
        assert (there.ref, there.nbytes) == (here.ref, here.nbytes)
        assert there.open().tobytes() == here.open().tobytes()
