"""The one folder of this user in which remote stores are kept in part, and how large it may become."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from embedstore.errors import UsageError

DEFAULT_GB = 10.0


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
