"""Threads that wait for the network: what is read now never waits for what is read ahead."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
NOW, AHEAD = 16, 8


class Requests:
    """A pool whose threads do not hold up the end of the program, unlike those of the standard library."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0

    def submit(self, work: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
        """Do `work` in a thread."""
        future: Future[T] = Future()
        self._waiting.put((future, partial(work, *arguments, **named)))
        with self._lock:
            if self._started < self._threads:
                self._started += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, work = self._waiting.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as bad:  # noqa: BLE001 - handed to whoever waits
                future.set_exception(bad)
            # A waiting thread must not keep what it last did alive.
            del future, work


def requests(*, ahead: bool) -> Requests:
    """The threads of this process: a forked one needs its own."""
    return _requests(os.getpid(), ahead=ahead)


@cache
def _requests(process: int, *, ahead: bool) -> Requests:
    return Requests(AHEAD if ahead else NOW, f"embedstore-{'ahead' if ahead else 'fetch'}-{process}")
