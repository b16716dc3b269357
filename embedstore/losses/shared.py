"""A loss that several processes evaluate together: each the blocks of its own pictures with all texts."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """One of `world` processes that hold the same embeddings, and takes the pictures `[first, last)`.

    `total` replaces a tensor by its sum over all processes, in place; all of them must call it.
    """

    rank: int
    world: int
    first: int
    last: int
    total: Callable[[Tensor], None]

    def log_sums(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Of the own pictures' sums `(b,)` and of each text's sum over them `(m,)`, those of all pictures."""
        room = rows.new_zeros(len(rows) + self.world * len(columns))
        room[self.first : self.last] = rows[self.first : self.last]
        parts = room[len(rows) :].view(self.world, -1)
        parts[self.rank] = columns
        self.total(room)
        return room[: len(rows)], parts.logsumexp(0)


_WORKERS: ContextVar[Workers | None] = ContextVar("workers", default=None)


@contextmanager
def evaluated_by(workers: Workers) -> Iterator[None]:
    """Inside, losses made of blocks divide these; values are the whole loss on every process.

    The gradient of the own pictures, of all texts and of the loss's parameters is then the whole one too.
    """
    before = _WORKERS.set(workers)
    try:
        yield
    finally:
        _WORKERS.reset(before)


def workers_now() -> Workers | None:
    """Who evaluates the loss with this process; none: it alone."""
    return _WORKERS.get()


def total_of(workers: Workers | None, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Scalars summed over all processes, then in float64; of one process they are as they were."""
    if workers is None:
        return numbers
    packed = torch.stack([x.double() for x in numbers])
    workers.total(packed)
    return packed.unbind()
