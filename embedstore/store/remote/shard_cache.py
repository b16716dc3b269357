"""The bounded folder in which pieces of remote shards are kept: a sparse file a shard, the oldest goes first.

A file is the bytes of the shard, of which only what was fetched takes space, then one byte for each inner
chunk and one for the index: 1 where it is there. A file is removed as a whole; who has it open reads on from
it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from embedstore.store.remote.cache_folder import cache_bytes, cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedstore.store.remote.objects import Stat

_BLOCK = 512
# A process looks at what others have added each time that it has added this share of the bound itself.
_LOOK_AGAIN = 1 / 64
# What is removed is a little more than needed, so that not every fetch removes something.
_KEPT = 0.95
# Numbers of processes come again, in a container with every start.
_PROCESS = secrets.token_hex(8)


class ShardCache:
    """All cached shards of this user, with at most `most` bytes; several processes may use it at once."""

    def __init__(self, root: Path, most: int) -> None:
        self.root, self.most = root, most
        self._locks: dict[int, threading.Lock] = {}
        self._known: int | None = None
        self._added = 0

    def path(self, url: str, name: str, stat: Stat) -> Path:
        """The file of one version of a shard; where versions cannot be told apart, of this process alone."""
        tag = stat.tag or f"process {os.getpid()} {_PROCESS}"
        key = hashlib.sha256(f"{url}\n{name}\n{stat.nbytes}\n{tag}".encode()).hexdigest()
        return self.root / key[:2] / key[2:40]

    @contextmanager
    def room(self, nbytes: int) -> Iterator[None]:
        """Make room for bytes that are written inside, one thread at a time: what is on the disk is all."""
        # A lock that another thread of a parent process held is never released in its fork.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            self._added += nbytes
            if self._known is not None:
                self._known += nbytes
            if self._known is None or self._known > self.most or self._added >= self.most * _LOOK_AGAIN:
                self._added = 0
                self._known = self._trim(nbytes)
            yield

    def _trim(self, coming: int) -> int:
        """Remove files, the one that was used longest ago first; returns the bytes that are kept."""
        found = sorted(self._files())
        total = sum(size for _, size, _ in found) + coming
        if total <= self.most:
            return total
        for _, size, path in found:
            if total <= self.most * _KEPT:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - thousands of plain names
            total -= size
        return total

    def _files(self) -> list[tuple[float, int, str]]:
        """Time of last use, bytes on disk and path of every cached shard."""
        found = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_blocks * _BLOCK, entry.path))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found


_caches: dict[tuple[int, str, int], ShardCache] = {}


def shard_cache() -> ShardCache:
    """The cache that the environment names, one in a process."""
    root, most = cache_root() / "shards", cache_bytes()
    key = (os.getpid(), str(root), most)
    return _caches.setdefault(key, ShardCache(root, most))
