"""A store behind a URL: named reads, writes and listings below it, through fsspec.

Names are relative to the store and never leave it. Failures that pass are tried again a few times; what is
left becomes one `RemoteError` that says where, what was found and what to do.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from embedstore.errors import EmbedstoreError, MissingExtraError, RemoteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

# Scheme -> fsspec's name for it, the module that it needs, and the extra that brings it.
_SCHEMES = {
    "s3": ("s3", "s3fs", "remote"),
    "gs": ("gs", "gcsfs", "gs"),
    "http": ("http", "aiohttp", "remote"),
    "https": ("http", "aiohttp", "remote"),
    "memory": ("memory", None, None),
}
_READ_ONLY = {"http", "https"}
# One slash is what is left of two where a URL went through a `Path`.
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9]+):(//|/(?=[^/]))")
_SEGMENT = re.compile(r"^[^/\\\x00-\x1f]+$")
DELAYS = (0.2, 0.8, 2.5)
PART_BYTES = 8 << 20
_BUSY = {errno.EBUSY, errno.EAGAIN, errno.EIO, errno.EPIPE, errno.ETIMEDOUT, errno.EINTR}
_NO_KEYS = (
    "NoCredentials",
    "PartialCredentials",
    "CredentialRetrieval",
    "DefaultCredentials",
    "RefreshError",
)
_PASSING = (
    "Connect",
    "Timeout",
    "Payload",
    "Disconnected",
    "IncompleteRead",
    "HTTPClientError",
    "ClientOSError",
)
_ENDPOINT = "check the network and the endpoint (s3: AWS_ENDPOINT_URL), then run the same command again"


def parse_url(text: str, *, what: str = "store") -> str | None:
    """The URL of a store (or `what`) in one spelling, none where `text` is a path of this machine.

    `UsageError` for a protocol that is not known, and for a URL with a query, credentials, or '..' in it.
    """
    found = _URL.match(text)
    if found is None or (found[2] == "/" and found[1].lower() not in _SCHEMES):
        return None
    scheme, rest = found[1].lower(), text[found.end() :].rstrip("/")
    shown = f"{scheme}://{rest}"
    if scheme not in _SCHEMES:
        raise UsageError(
            f"no {what} can be at this kind of URL",
            found=shown,
            allowed=", ".join(f"{s}://" for s in _SCHEMES),
            todo="give a folder of this machine as a path" if scheme == "file" else None,
        )
    pieces = rest.split("/")
    if "?" in rest or "#" in rest or "@" in pieces[0]:
        raise UsageError(
            f"a {what}'s URL is plain, without query, fragment or credentials",
            found=f"{scheme}://…",
            todo="give credentials by the environment or fsspec's configuration: docs/remote.md",
        )
    if any(p in (".", "..") or not _SEGMENT.match(p) for p in pieces):
        raise UsageError(f"bad path in the URL of a {what}", found=shown, allowed="no empty part, no '..'")
    return shown


@dataclass(frozen=True, slots=True)
class Stat:
    """An object's size in bytes, and what changes with its content ('' where the server says nothing)."""

    nbytes: int
    tag: str


class Remote:
    """All objects below one URL. Thread-safe; usable after a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme = url.partition("://")[0]
        self._systems: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return self.scheme in _READ_ONLY

    def refuse_read_only(self, what: str) -> None:
        """`UsageError` where nothing can be written there."""
        if self.read_only:
            raise UsageError(
                f"{what} writes, and {self.scheme} is read-only",
                found=self.url,
                allowed="a folder, s3:// or gs://",
                todo="write the store elsewhere and let the server serve it",
            )

    @cached_property
    def _base(self) -> str:
        # The only file systems whose names keep the scheme.
        return self.url if self.scheme in _READ_ONLY else self.url.partition("://")[2]

    def _fs(self) -> Any:
        """The file system of this process: its threads and connections do not survive a fork."""
        found = self._systems.get(os.getpid())
        if found is None:
            # Made by one thread: several that begin at once would each make an event loop, and wait for ever.
            with _one_lock():
                found = self._systems.get(os.getpid())
                if found is None:
                    found = self._systems[os.getpid()] = _filesystem(self.scheme)
        return found

    def _at(self, name: str) -> str:
        root = f"/{self._base}" if self.scheme == "memory" else self._base
        return f"{root}/{name}" if name else root

    def _try(self, what: str, name: str, work: Callable[[], T]) -> T:
        """Do `work`, again where it failed for a reason that may pass; `FileNotFoundError` stays itself."""
        where = f"{self.url}/{name}" if name else self.url
        for delay in (*DELAYS, None):
            try:
                return work()
            except EmbedstoreError:
                raise
            except Exception as bad:
                cause = _cause(bad)
                if isinstance(cause, FileNotFoundError):
                    raise cause from None
                if delay is None or not _passes(cause):
                    raise _told(cause, what, where) from bad
                time.sleep(delay)
        raise RemoteError(f"cannot {what}", where=where)

    def stat(self, name: str) -> Stat | None:
        """Size and tag of an object, none where it is not there."""
        try:
            found = self._try("look up", name, lambda: self._fs().info(self._at(name)))
        except FileNotFoundError:
            return None
        return None if found.get("type") == "directory" else _stat(found)

    def read(self, name: str, *, most: int) -> bytes | None:
        """A whole small object, none where it is not there; `RemoteError` where it has over `most` bytes."""
        found = self.stat(name)
        if found is None:
            return None
        if found.nbytes > most:
            raise RemoteError(
                "the object is too large",
                where=f"{self.url}/{name}",
                found=f"{found.nbytes} bytes",
                allowed=most,
            )
        return self.read_range(name, 0, found.nbytes)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of an object; `FileNotFoundError`, `RemoteError`."""
        if start == stop:
            return b""

        def once() -> bytes:
            got: bytes = self._fs().cat_file(self._at(name), start=start, end=stop)
            if len(got) == stop - start:
                return got
            if len(got) > stop - start:
                raise RemoteError(
                    "the server does not serve ranges of bytes",
                    where=f"{self.url}/{name}",
                    found=f"{len(got)} bytes for {stop - start}",
                    todo="serve the store with a server that knows the Range header, or copy it here",
                )
            raise ConnectionError(f"{len(got)} of {stop - start} bytes came")

        return self._try("read", name, once)

    def read_start(self, name: str, most: int) -> bytes:
        """The first bytes of an object, at most `most`, where its size is not known; `FileNotFoundError`."""
        if self.read_only:  # a web server may answer with everything, so its size is asked first
            found = self.stat(name)
            if found is None:
                raise FileNotFoundError(name)
            return self.read_range(name, 0, min(most, found.nbytes))

        def once() -> bytes:
            try:
                got: bytes = self._fs().cat_file(self._at(name), start=0, end=most)
            except FileNotFoundError:
                raise FileNotFoundError(name) from None
            except Exception as bad:
                if _is_empty(bad):
                    return b""
                raise
            return got

        return self._try("read", name, once)

    def listing(self, folder: str) -> tuple[dict[str, Stat | None], list[str]]:
        """Names of the files in a folder, with what is known of them, and of the folders in it; not below."""
        try:
            found = self._try("list", folder, lambda: self._list(folder))
        except FileNotFoundError:
            return {}, []
        files: dict[str, Stat | None] = {}
        folders: list[str] = []
        base = f"{self._at(folder)}/"
        for entry in found:
            whole = str(entry["name"])
            if not whole.rstrip("/").startswith(base):
                continue
            name = whole.rstrip("/")[len(base) :]
            if not _SEGMENT.match(name):
                continue
            if entry.get("type") == "directory" or whole.endswith("/"):
                folders.append(name)
            else:
                files[name] = _stat(entry) if entry.get("size") is not None else None
        return files, sorted(folders)

    def _list(self, folder: str) -> Any:
        place = f"{self._at(folder)}/" if self.read_only else self._at(folder)
        return self._fs().ls(place, detail=True)

    def sizes(self, folder: str) -> dict[str, Stat]:
        """Everything below a folder by its name relative to the folder; not over http."""
        try:
            found = self._try("list", folder, lambda: self._fs().find(self._at(folder), detail=True))
        except FileNotFoundError:
            return {}
        base = f"{self._at(folder)}/"
        return {
            name[len(base) :]: _stat(entry)
            for name, entry in found.items()
            if name.startswith(base) and entry.get("type") != "directory"
        }

    def put(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Store a small object; with `create` only where there is none: returns whether it was made."""
        mode = {"mode": "create"} if create else {}

        def once() -> bool:
            try:
                self._fs().pipe_file(self._at(name), data, **mode)
            except FileExistsError:
                return False
            return True

        return self._writing(name, once)

    def upload(self, name: str, path: Path) -> None:
        """Store a local file as one object, whole or not at all."""
        self._writing(name, lambda: self._fs().put_file(str(path), self._at(name)))

    def remove(self, name: str) -> None:
        """Remove an object, where it is there."""
        try:
            self._try("remove", name, lambda: self._fs().rm_file(self._at(name)))
        except FileNotFoundError:
            return

    def _writing(self, name: str, work: Callable[[], T]) -> T:
        try:
            return self._try("write", name, work)
        except FileNotFoundError as bad:
            raise RemoteError(
                "there is no such bucket", where=self.url, found=str(bad), todo="make it first"
            ) from None


_locks: dict[int, threading.Lock] = {}


def _one_lock() -> threading.Lock:
    """The lock of this process: one that was held at a fork would never be free in the child."""
    return _locks.setdefault(os.getpid(), threading.Lock())


def _filesystem(scheme: str) -> Any:
    import fsspec
    import fsspec.asyn

    protocol, module, extra = _SCHEMES[scheme]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol == "s3":
        # One layer of repetition is enough: ours.
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": 10,
            "max_pool_connections": 32,
            **own,
        }
    if protocol == "http":
        options |= {"client_kwargs": {"trust_env": True}, "simple_links": False}
        own = fsspec.config.conf.get("http", {}).get("client_kwargs", {})
        options["client_kwargs"] |= own
    try:
        system = fsspec.filesystem(protocol, **options)
    except ImportError as bad:
        raise MissingExtraError(
            f"{scheme}:// needs {module}", found=str(bad), todo=f"pip install 'embedstore[{extra}]'"
        ) from None
    if protocol == "s3":
        system.retries = 1
    if protocol in ("s3", "http"):
        fsspec.asyn.sync(system.loop, system.set_session)
    return system


def _stat(entry: Any) -> Stat:
    size = entry.get("size")
    if size is None or int(size) < 0:
        raise RemoteError("the server does not tell the size of an object", where=entry.get("name"))
    for key in ("ETag", "etag", "generation", "LastModified", "Last-Modified", "updated", "created", "mtime"):
        value = entry.get(key)
        if value:
            # A listing and a look-up may give the same time as a number and as a date.
            value = value.timestamp() if isinstance(value, datetime) else value
            return Stat(int(size), f"{key} {value}")
    return Stat(int(size), "")


def _cause(bad: Exception) -> BaseException:
    """What really happened: the http file system calls every failure of a look-up 'not found'."""
    found: BaseException = bad
    while isinstance(found, FileNotFoundError) and found.__cause__ is not None:
        found = found.__cause__
    if getattr(found, "status", None) in (404, 410):
        return FileNotFoundError(str(bad))
    return found


def _is_empty(bad: BaseException) -> bool:
    """Whether there is no first byte to be served: the object is there, and empty."""
    return "not satisfiable" in str(bad) or getattr(bad, "status", None) == 416


def _passes(bad: BaseException) -> bool:
    """Whether a failure may be gone at the next try."""
    status = getattr(bad, "status", None)
    if isinstance(status, int) and status >= 400:
        return status >= 500 or status in (408, 429)
    if isinstance(bad, (ConnectionError, TimeoutError)):
        return True
    if isinstance(bad, OSError) and not isinstance(bad, PermissionError) and bad.errno in _BUSY:
        return True
    return any(part in kind.__name__ for kind in type(bad).__mro__ for part in _PASSING)


def _told(bad: BaseException, what: str, where: str) -> RemoteError:
    kinds = [kind.__name__ for kind in type(bad).__mro__]
    found = f"{kinds[0]}: {str(bad)[:300]}"
    if any(part in kind for kind in kinds for part in _NO_KEYS):
        problem, todo = "there are no credentials for this place", "docs/remote.md says how they are given"
    elif "NoSuchBucket" in kinds or "specified bucket does not exist" in str(bad):
        problem, todo = "there is no such bucket", "make it first, or correct the URL"
    elif isinstance(bad, PermissionError) or getattr(bad, "status", None) in (401, 403):
        problem, todo = f"access denied: cannot {what}", "use credentials that may do this: docs/remote.md"
    elif _passes(bad):
        problem, todo = f"cannot {what}: the server does not answer as it should", _ENDPOINT
    else:
        problem, todo = f"cannot {what}", _ENDPOINT
    return RemoteError(problem, where=where, found=found, todo=todo)
