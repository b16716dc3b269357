"""The one folder of this user in which remote stores are kept in part, and how large it may become."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from functools import cache
from pathlib import Path

from embedstore.errors import UsageError
from embedstore.store import files

# Elsewhere what a killed process left stays until somebody removes it.
if sys.platform != "win32":
    import fcntl

DEFAULT_GB = 10.0
OWN = "own"
_LOCK = "lock"
# Folders of this process and the handles that hold their locks.
_held: dict[Path, int] = {}


def cache_root() -> Path:
    """`$EMBEDSTORE_CACHE`, or `embedstore/remote` in the platform's cache folder of this user."""
    return _cache_root(*(os.environ.get(name) for name in ("EMBEDSTORE_CACHE", "XDG_CACHE_HOME", "HOME")))


@cache
def _cache_root(chosen: str | None, xdg: str | None, _home: str | None) -> Path:
    if chosen:
        return Path(chosen).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "embedstore" / "remote"
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else xdg
    return Path(base or Path.home() / ".cache").absolute() / "embedstore" / "remote"


def cache_bytes() -> int:
    """How many bytes of shards may be kept: `$EMBEDSTORE_CACHE_GB`, 10 GB by default; `UsageError`."""
    text = os.environ.get("EMBEDSTORE_CACHE_GB") or str(DEFAULT_GB)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1e9:
        raise UsageError("bad size of the cache", where="EMBEDSTORE_CACHE_GB", found=text, allowed="above 0")
    return int(found * 1e9)


def stores_root() -> Path:
    """The folder of all mirrors."""
    return cache_root() / "stores"


def is_mirrored(path: Path | str) -> bool:
    """Whether a path lies in a mirror of a remote store."""
    return str(path).startswith(f"{stores_root()}{os.sep}")


def own_folder() -> Path:
    """A new folder of this process alone among the mirrors; what killed processes left of theirs is removed.

    A folder is locked as long as its process lives. A cache folder may be shared by machines, on which locks
    are not always seen: each removes only its own.
    """
    home = stores_root() / OWN
    machine = "".join(c for c in socket.gethostname() if c.isalnum()) or "machine"
    for place in home.iterdir() if home.is_dir() else ():
        if place.name.rpartition("-")[0] == machine and place not in _held:
            _remove_orphan(place)
    place = home / f"{machine}-{secrets.token_hex(8)}"
    files.make_folder(place)
    if sys.platform != "win32":
        early = place / f"{_LOCK}.new"
        handle = os.open(early, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        early.rename(place / _LOCK)
        _held[place] = handle
    return place


def remove_own(place: Path) -> None:
    """Remove an own folder of this process."""
    shutil.rmtree(place, ignore_errors=True)
    handle = _held.pop(place, None)
    if handle is not None:
        os.close(handle)


def _remove_orphan(place: Path) -> None:
    """Remove a folder whose process is gone: its lock is free."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(place / _LOCK, os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(handle)
