"""Where the files of a source lie: on this machine, or behind a URL through fsspec.

Every list of files, every table and every tar goes through here: `at` says where something is, `expand` what
a pattern means, `LocalFile` and `RemoteFile` are read in the same way. Reads are bounded: what is read whole
has a stated limit, everything else comes in windows. A name that comes out of a file is joined with `child`,
which never leaves the folder. A URL that cannot be reached raises `RemoteError`, which is never taken for one
bad picture.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, TypeAlias

import pyarrow as pa

from embedstore.errors import SourceError
from embedstore.store.remote.objects import Remote, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

WINDOW_BYTES = 4 << 20
"""What is read of a remote file at once, where more than a picture is wanted of it."""

FOLDER_DEPTH = 32
"""How many folders may lie in each other where all files below one are listed."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file or folder of this machine."""

    path: Path
    remote = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def parent(self) -> LocalFile:
        """The folder that it lies in."""
        return LocalFile(self.path.parent)

    def child(self, name: str) -> LocalFile:
        """What is called `name` (with `/` between folders) below this folder."""
        _refuse_leaving(name)
        return LocalFile(self.path / name)

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    def is_dir(self) -> bool:
        """Whether there is such a folder."""
        return self.path.is_dir()

    @property
    def nbytes(self) -> int:
        """Size in bytes. `SourceError` where it cannot be told."""
        try:
            return self.path.stat().st_size
        except OSError as bad:
            raise _unreadable(self, bad) from None

    def open(self, window: int = WINDOW_BYTES) -> IO[bytes]:  # noqa: ARG002 - the system reads ahead here
        """A seekable stream."""
        try:
            return self.path.open("rb")
        except OSError as bad:
            raise _unreadable(self, bad) from None

    def stamp(self) -> tuple[int, int]:
        """Size and time of the last change: what differs where the file was written again."""
        try:
            found = self.path.stat()
        except OSError as bad:
            raise _unreadable(self, bad) from None
        return found.st_size, found.st_mtime_ns

    def read_at(self, start: int, count: int) -> bytes:
        """The bytes `[start, start + count)`; fewer at the end of the file."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _pread(handle, start, count)
            finally:
                os.close(handle)
        except OSError as bad:
            raise _unreadable(self, bad) from None

    def listing(self) -> tuple[dict[str, int | None], list[str]]:
        """Sizes of the files in this folder by name, not looked up here, and the folders in it; sorted."""
        try:
            entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        except OSError as bad:
            raise SourceError(f"cannot be listed: {bad.strerror}", where=self) from None
        return {e.name: None for e in entries if holds(e.is_file)}, [
            e.name for e in entries if holds(e.is_dir)
        ]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or folder behind a URL, in the one spelling that `parse_url` gives it."""

    url: str
    remote = True

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemoteFile:
        """The folder that it lies in."""
        scheme, _, rest = self.url.partition("://")
        return RemoteFile(f"{scheme}://{rest.rpartition('/')[0] or rest}")

    def child(self, name: str) -> RemoteFile:
        """What is called `name` (with `/` between folders) below this folder."""
        _refuse_leaving(name)
        if self.url.startswith("http"):
            name = name.replace("?", "%3F").replace("#", "%23")
        return RemoteFile(f"{self.url}/{name}")

    def _at(self) -> tuple[Remote, str]:
        scheme, _, rest = self.url.partition("://")
        root, _, name = rest.partition("/")
        return _remote(f"{scheme}://{root}"), name

    def is_file(self) -> bool:
        """Whether there is such an object."""
        remote, name = self._at()
        return bool(name) and remote.stat(name) is not None

    def is_dir(self) -> bool:
        """Whether anything lies below this URL."""
        files, folders = self.listing()
        return bool(files or folders)

    @property
    def nbytes(self) -> int:
        """Size in bytes. `SourceError` where it is not there."""
        remote, name = self._at()
        found = remote.stat(name)
        if found is None:
            raise SourceError("there is no such file", where=self.url)
        return found.nbytes

    def open(self, window: int = WINDOW_BYTES) -> IO[bytes]:
        """A seekable stream, read in windows of so many bytes."""
        return io.BufferedReader(_RemoteBytes(self, self.nbytes), window)

    def read_at(self, start: int, count: int) -> bytes:
        """The bytes `[start, start + count)`, all of which must be there."""
        remote, name = self._at()
        try:
            return remote.read_range(name, start, start + count)
        except FileNotFoundError:
            raise SourceError("there is no such file", where=self.url) from None

    def read_start(self, most: int) -> bytes | None:
        """The first bytes, at most `most`, in one request; none where there is no such object."""
        remote, name = self._at()
        try:
            return remote.read_start(name, most)
        except FileNotFoundError:
            return None

    def listing(self) -> tuple[dict[str, int | None], list[str]]:
        """Sizes of the files in this folder by name, and the folders in it; sorted."""
        remote, name = self._at()
        files, folders = remote.listing(name)
        return {n: None if s is None else s.nbytes for n, s in sorted(files.items())}, sorted(folders)

    def below(self) -> dict[str, int | None]:
        """Sizes of all files below this folder by their relative name, sorted."""
        remote, name = self._at()
        if not remote.read_only:
            return {n: s.nbytes for n, s in sorted(remote.sizes(name).items())}
        return dict(sorted(_walked(self, "", FOLDER_DEPTH).items()))


File: TypeAlias = "LocalFile | RemoteFile"


def at(place: str | Path | File) -> File:
    """Where `place` is: a path of this machine (`~` is the home folder) or a URL. Raises `UsageError`."""
    if isinstance(place, (LocalFile, RemoteFile)):
        return place
    url = parse_url(str(place), what="source")
    if url is not None:
        return RemoteFile(url)
    return LocalFile(Path(place).expanduser())


@contextmanager
def arrow_input(file: File) -> Iterator[Any]:
    """A file as Arrow reads it: by its own threads on this machine, in windows behind a URL."""
    if isinstance(file, LocalFile):
        with pa.OSFile(str(file.path)) as opened:
            yield opened
    else:
        with file.open() as stream:
            yield stream


def holds(kind: Callable[[], bool]) -> bool:
    """Whether `entry.is_dir` or `entry.is_file` of a folder holds: of a link to itself neither does."""
    try:
        return kind()
    except OSError:
        return False


def is_url(place: str) -> bool:
    """Whether `place` is spelled as a URL, of whatever kind."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def open_text(file: File, *, newline: str) -> TextIO:
    """A file as UTF-8 text, a byte order mark passed over."""
    return io.TextIOWrapper(file.open(), encoding="utf-8-sig", newline=newline)


@cache
def _remote(root: str) -> Remote:
    return Remote(root)


def _walked(folder: RemoteFile, prefix: str, depth: int) -> dict[str, int | None]:
    if depth == 0:
        raise SourceError("folders lie too deep in each other", where=folder, allowed=FOLDER_DEPTH)
    files, folders = folder.listing()
    found = {f"{prefix}{name}": size for name, size in files.items()}
    for name in folders:
        found |= _walked(folder.child(name), f"{prefix}{name}/", depth - 1)
    return found


def _refuse_leaving(name: str) -> None:
    parts = name.split("/")
    if "\0" in name or any(part in ("", "..") for part in parts):
        raise SourceError("a name that leaves its folder", found=ascii(name)[:200])


def _unreadable(file: LocalFile, bad: OSError) -> SourceError:
    if isinstance(bad, (FileNotFoundError, NotADirectoryError)):
        return SourceError("there is no such file", where=file)
    return SourceError(f"cannot be read: {bad.strerror}", where=file)


def _pread(handle: int, start: int, count: int) -> bytes:
    # One read gives at most 2 GB, and less where a signal comes.
    pieces = []
    while count and (piece := os.pread(handle, count, start)):
        pieces.append(piece)
        start, count = start + len(piece), count - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _RemoteBytes(io.RawIOBase):
    """The raw stream below a remote file's buffer."""

    def __init__(self, file: RemoteFile, nbytes: int) -> None:
        self._file, self._nbytes, self._position = file, nbytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._nbytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._nbytes - self._position))
        if count:
            view[:count] = self._file.read_at(self._position, count)
            self._position += count
        return count
