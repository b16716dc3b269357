"""Results taken off the device while it computes the next batch."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_AT_ONCE = 2


class Collector:
    """Runs the steps that convert and copy results.

    Those of a CPU at once, since the model needs its cores. Those of a CUDA device in a thread and a stream
    of their own, so that the next batch is launched before the copy is done; at most two batches are under
    way, so memory does not grow. What a step raises is raised by a later call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "collect")
        self._waiting: deque[Future[None]] = deque()

    @property
    def behind(self) -> bool:
        """Whether steps are still under way."""
        return bool(self._waiting)

    def put(self, step: Callable[[], None], device: torch.device) -> None:
        """Run `step` once what `device` was asked to compute so far is there."""
        if device.type != "cuda":
            step()
            return
        self.wait_for(_MOST_AT_ONCE - 1)
        ready = torch.cuda.current_stream(device).record_event()
        self._waiting.append(self._pool.submit(_aside, step, ready, device))

    def wait_for(self, steps: int) -> None:
        """Wait until all but the last `steps` are done."""
        while len(self._waiting) > steps:
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


def _aside(step: Callable[[], None], ready: torch.cuda.Event, device: torch.device) -> None:
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it
    with torch.cuda.stream(side):
        side.wait_event(ready)
        step()
    side.synchronize()  # what the step read may be given back to the model's stream now
