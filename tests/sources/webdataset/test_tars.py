"""Headers of tars against Python's own reader, and tars that are damaged, cut or hostile."""

from __future__ import annotations

import contextlib
import io
import struct
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.sources.webdataset.tars import MOST_EXTENDED, members

NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)


def written(files, how=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=how) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def found(data, *, end=True):
    return list(
        members(
            lambda start, count: data[start : start + count], where="x.tar", end=len(data) if end else None
        )
    )


@given(
    st.lists(st.tuples(PATHS, st.binary(max_size=1500)), min_size=1, max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_members_are_those_that_tarfile_wrote(files, how):
    data = written(files, how)
    got = [(m.name.decode(), m.kind, data[m.offset : m.offset + m.nbytes]) for m in found(data)]
    assert got == [(name, "file", content) for name, content in files]


def test_ustar_names_with_a_prefix():
    name = "/".join(["folder" * 5] * 4) + "/file.jpg"
    data = written([(name, b"x")], tarfile.USTAR_FORMAT)
    assert [m.name.decode() for m in found(data)] == [name]


def test_kinds_of_members():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("a")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        holes = tarfile.TarInfo("b")
        holes.pax_headers = {"GNU.sparse.map": "0,1"}
        tar.addfile(holes)
    assert [m.kind for m in found(out.getvalue())] == ["folder", "link", "link", "other", "other", "sparse"]


def test_sizes_beyond_the_octal_field():
    header = bytearray(written([("big.jpg", b"")], tarfile.GNU_FORMAT)[:512])
    header[124:136] = b"\x80" + (9 << 30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    size = 512 + (9 << 30)
    (one,) = members(
        lambda start, count: bytes(header)[start : start + count] if start < 512 else bytes(count),
        where="x",
        end=size,
    )
    assert (one.offset, one.nbytes) == (512, 9 << 30)


@pytest.mark.parametrize("cut", [1024, 1100, 1536])
def test_a_tar_without_its_end_mark_may_lack_more(cut):
    data = written([("a.jpg", b"x" * 512), ("b.txt", b"y")], tarfile.GNU_FORMAT)
    with pytest.raises(SourceError, match=r"x\.tar, byte \d+: a tar that is cut off"):
        found(data[:cut])
    with pytest.raises(SourceError, match="no end mark") as caught:
        found(data[:2048])
    assert "truncate -s +1024" in str(caught.value)
    assert len(found(data[:2560])) == len(found(data)) == 2


@pytest.mark.parametrize("cut", [100, 511, 513, 600, 1023])
def test_a_tar_that_is_cut_off(cut):
    data = written([("a.jpg", b"x" * 600)], tarfile.GNU_FORMAT)
    with pytest.raises(SourceError, match=r"x\.tar, byte 0: a tar that is cut off"):
        found(data[:cut])


def test_what_is_no_tar():
    with pytest.raises(SourceError, match="an empty file"):
        found(b"")
    with pytest.raises(SourceError, match="not a tar"):
        found(b"hello, " * 300)


def test_a_flipped_bit_in_a_header():
    data = bytearray(written([("a.jpg", b"x"), ("b.jpg", b"y")], tarfile.GNU_FORMAT))
    data[1024 + 3] ^= 1
    with pytest.raises(SourceError, match=r"x\.tar, byte 1024: a damaged tar header"):
        found(bytes(data))


def extended(kind, body, size=None):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + body + b"\0" * (-len(body) % 512)


@pytest.mark.parametrize(
    "body", [b"9999999999 path=x\n", b"8 path=x\n", b"path=x\n", b"-5 path=x\n", b"12 path=xxxx", b"5 path"]
)
def test_damaged_extended_headers(body):
    with pytest.raises(SourceError, match="a damaged extended header"):
        found(extended(tarfile.XHDTYPE, body))


def test_an_extended_header_is_never_read_without_a_bound():
    asked = []
    data = extended(tarfile.XHDTYPE, b"", MOST_EXTENDED + 1)

    def read(start, count):
        asked.append(count)
        return data[start : start + count]

    with pytest.raises(SourceError, match="an extended header too long"):
        list(members(read, where="x", end=None))
    assert max(asked) == 512


def test_a_member_that_claims_more_than_there_is():
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    with pytest.raises(SourceError, match="cut off"):
        found(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512)


@given(st.binary(max_size=2000), st.integers(0, 1535), st.integers(0, 255))
def test_hostile_bytes_end_in_members_or_one_error(tail, place, value):
    data = bytearray(written([("a.jpg", b"x" * 10), ("é" * 120, b"y")]))
    data[place] = value
    data = bytes(data[: 512 * struct.unpack("B", bytes([value % 8 + 1]))[0]]) + tail
    got = []
    with contextlib.suppress(SourceError):
        got = found(data)
    for member in got:
        assert 0 <= member.offset <= member.offset + member.nbytes <= len(data)
