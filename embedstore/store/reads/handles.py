"""Open files are few: one bound over every array of the process, the shard used longest ago goes first."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

LEAST_OPEN, MOST_OPEN = 16, 1024
_TOO_MANY = {errno.EMFILE, errno.ENFILE}


class Holder(Protocol):
    """What keeps files open under numbers of its own."""

    def let_go(self, number: int) -> None:
        """Forget the file of this number; readers that are at it finish."""


def most_open() -> int:
    """Files that all arrays together keep open: half of what the process may open, 1,024 at most."""
    try:
        import resource
    except ImportError:
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else min(MOST_OPEN, max(LEAST_OPEN, soft // 2))


class _Recent:
    """What is held, in the order of its last use."""

    def __init__(self) -> None:
        self._used: OrderedDict[tuple[int, int], weakref.ref[Holder]] = OrderedDict()
        self._most = 0
        self.after_fork()

    def after_fork(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._used)

    @property
    def crowded(self) -> bool:
        """Whether so many are held that it matters which was used last."""
        return 2 * len(self._used) > self._most

    def used(self, holder: Holder, number: int) -> None:
        key = (id(holder), number)
        with self._lock:
            if key in self._used:
                self._used.move_to_end(key)
                reference = self._used[key]
                if reference() is holder:
                    return
            # One that is gone may have left its id to this one.
            self._used[key] = weakref.ref(holder)
        self._most = most_open()
        self.let_go(len(self._used) - self._most)

    def let_go(self, count: int) -> int:
        """Let go of the files used longest ago; how many there were."""
        with self._lock:
            oldest = [self._used.popitem(last=False) for _ in range(min(count, len(self._used)))]
        for (_, number), reference in oldest:
            holder = reference()
            if holder is not None:
                holder.let_go(number)
        return len(oldest)


_recent = _Recent()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recent.after_fork)


def used(holder: Holder, number: int) -> None:
    """Tell that a file is held and was just used; where these are too many, the oldest is let go."""
    _recent.used(holder, number)


def used_again(holder: Holder, number: int) -> None:
    """The same of a file that was held already; costs nothing while there are few."""
    if _recent.crowded:
        _recent.used(holder, number)


def let_go_all() -> None:
    """Let go of every file that is held, and of what is mapped of it; who needs one opens it again."""
    _recent.let_go(len(_recent))


def open_file(path: Path, flags: int, mode: int = 0o777) -> int:
    """`os.open`; where the process has no more files to give, those used longest ago are let go first."""
    while True:
        try:
            return os.open(path, flags, mode)
        except OSError as bad:
            if bad.errno not in _TOO_MANY or not _recent.let_go(-(-len(_recent) // 2)):
                raise
