"""What lies where in a tar: headers alone are read, and nothing is ever unpacked to a disk.

Written for hostile files: the standard reader keeps every header in memory, reads extended headers of any
length and follows links. Known here: ustar, GNU long names and pax names and sizes, numbers in base 256.
Links, devices, sparse files and other kinds are named by their kind, for the caller to leave out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedstore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
MOST_EXTENDED = 1 << 20
"""The most bytes of an extended header: names are at most some thousand bytes long."""

_FILES = {b"0", b"\0", b"7"}
_WITHOUT_DATA = {b"1", b"2", b"3", b"4", b"5", b"6"}
_KINDS = {b"5": "folder", b"1": "link", b"2": "link", b"S": "sparse"}
_EXTENDED = {b"L", b"K", b"x", b"X", b"g"}
_CHECKSUM = re.compile(rb"[ \0]*([0-7]+)[ \0]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a tar. `kind`: "file", "folder", "link", "sparse" or "other"; `name` as it is written."""

    name: bytes
    kind: str
    offset: int
    nbytes: int


def members(read: Callable[[int, int], bytes], *, where: str, end: int | None = None) -> Iterator[Member]:
    """The members of a tar in its order. `read(start, count)` gives fewer bytes at the end only.

    Positions asked for only grow. `end` is the tar's size where it is known. Raises `SourceError` where a
    header is damaged or the tar is cut off: without its end mark nobody knows what is missing.
    """
    at, told = 0, _Told()
    while True:
        header = read(at, BLOCK)
        if header.count(0) == len(header) == BLOCK:
            return
        if not header:
            raise _no_end(where, at)
        if len(header) < BLOCK:
            raise _cut(where, at)
        _refuse_damaged(header, where, at)
        kind, data = header[156:157], at + BLOCK
        nbytes = _number(header[124:136], where, at)
        if kind in _EXTENDED:
            told = told.after(kind, _extended(read, data, nbytes, where), _place(where, at))
            at = data + _padded(nbytes)
            continue
        nbytes = 0 if kind in _WITHOUT_DATA else nbytes if told.nbytes is None else told.nbytes
        if end is not None and data + nbytes > end:
            raise _cut(where, at)
        yield _member(header, kind, data, nbytes, told)
        at, told = data + _padded(nbytes), _Told()


@dataclass(frozen=True, slots=True)
class _Told:
    """What extended headers say about the member that follows them."""

    name: bytes | None = None
    nbytes: int | None = None
    sparse: bool = False

    def after(self, kind: bytes, extended: bytes, where: str) -> _Told:
        if kind == b"L":
            return replace(self, name=extended.rstrip(b"\0"))
        if kind not in (b"x", b"X"):
            return self
        name, nbytes, sparse = _pax(extended, where)
        return _Told(self.name if name is None else name, nbytes, sparse)


def _extended(read: Callable[[int, int], bytes], start: int, nbytes: int, where: str) -> bytes:
    if nbytes > MOST_EXTENDED:
        raise SourceError("an extended header too long", where=_place(where, start), found=nbytes)
    extended = read(start, nbytes)
    if len(extended) < nbytes:
        raise _cut(where, start)
    return extended


def _member(header: bytes, kind: bytes, data: int, nbytes: int, told: _Told) -> Member:
    name = _short_name(header) if told.name is None else told.name
    if kind in _FILES:
        meant = "sparse" if told.sparse else "folder" if name.endswith(b"/") else "file"
    else:
        meant = _KINDS.get(kind, "other")
    return Member(name, meant, data, nbytes)


def _short_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _padded(nbytes: int) -> int:
    return -(-nbytes // BLOCK) * BLOCK


def _place(where: str, at: int) -> str:
    return f"{where}, byte {at}"


def _cut(where: str, at: int) -> SourceError:
    return SourceError(
        "a tar that is cut off",
        where=_place(where, at),
        todo="bring it again, or leave it out of the pattern",
    )


def _no_end(where: str, at: int) -> SourceError:
    if at == 0:
        return SourceError("an empty file, not a tar", where=where)
    return SourceError(
        "a tar that is cut off: it has no end mark",
        where=_place(where, at),
        todo="bring it again, or leave it out of the pattern; where it is known to be whole, add the mark: "
        f"truncate -s +{2 * BLOCK}",
    )


def _refuse_damaged(header: bytes, where: str, at: int) -> None:
    stated = _CHECKSUM.fullmatch(header[148:156])
    found = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if stated is not None and int(stated[1], 8) == found:
        return
    if at == 0:
        raise SourceError("not a tar", where=where, allowed=".tar, or .tar.gz compressed by gzip")
    raise SourceError(
        "a damaged tar header",
        where=_place(where, at),
        todo="bring it again, or leave it out of the pattern",
    )


def _number(field: bytes, where: str, at: int) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        number = -1
    if number < 0 or field[0] > 0x80:
        raise SourceError("a damaged tar header", where=_place(where, at), found=ascii(field))
    return number


def _pax(data: bytes, where: str) -> tuple[bytes | None, int | None, bool]:
    # Records "LENGTH key=value\n": the name, the size, and whether the data has holes.
    name, size, sparse, start = None, None, False, 0
    while start < len(data) and data[start] != 0:
        space = data.find(b" ", start, start + 20)
        digits = data[start:space] if space > 0 else b""
        stop = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not start < space < stop <= len(data) or not equals or data[stop - 1 : stop] != b"\n":
            raise SourceError("a damaged extended header", where=where)
        if key == b"path":
            name = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        sparse = sparse or key.startswith(b"GNU.sparse.")
        start = stop
    return name, size, sparse
