"""Ctrl-C while weights are changed: kept until the fit stands still, so that it can be written down."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType


class HeldSignals:
    """Inside `with`, the first SIGINT or SIGTERM only sets `waiting`; `deliver` does what it was to do.

    A second one is not held. One that is still waiting at the end is delivered there. A signal that the
    program leaves to the system, and those of a thread that is not the main one, are left as they are.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.deliver()

    def deliver(self) -> None:
        """Do what the waiting signal was to do, if there is one: raise `KeyboardInterrupt`, usually."""
        number, self.waiting = self.waiting, None
        if number is not None:
            self._before[number](number, None)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.waiting is None:
            self.waiting = number
        else:
            self._before[number](number, frame)
