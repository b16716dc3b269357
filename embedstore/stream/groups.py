"""An epoch read group by group: blocks from all over the feature into reused buffers, batches as views."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.memory import free_memory
from embedstore.store.order import Done, Shuffle, block_rows, epoch_plan, epoch_steps, group_rows
from embedstore.store.reads.blocks import GroupReader
from embedstore.stream.ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedstore.shapes import IntArray
    from embedstore.store import EpochPlan
    from embedstore.store.mix import MixedRows
    from embedstore.stream.micro import Micro
    from embedstore.stream.share import Share

Buffers = TypeVar("Buffers")
Batch = TypeVar("Batch")

BUFFER_MB = 512
_SETS = 2
_CACHED_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Unit:
    """Batches that are read together: `rows (m,)` in order, cut by `cuts (s + 1,)`, `times` over."""

    rows: IntArray
    cuts: IntArray
    times: int = 1

    @property
    def batches(self) -> list[tuple[int, int]]:
        """First and last-plus-one row of each batch."""
        return list(pairwise(self.cuts.tolist()))


def cut(plan: EpochPlan, most: int) -> list[Unit]:
    """The groups of an epoch, each in units of at most `most` rows, or of one batch where that is larger."""
    found: list[Unit] = []
    for low, high in pairwise(plan.groups.tolist()):
        at = low
        while at < high:
            reach = np.searchsorted(plan.batches, plan.batches[at] + most, side="right") - 1
            end = min(high, max(at + 1, int(reach)))
            first = plan.batches[at]
            rows = plan.rows[first : plan.batches[end]]
            found.append(Unit(rows, plan.batches[at : end + 1] - first))
            at = end
    return found


def cut_steps(plan: EpochPlan, most: int, passes: int) -> list[Unit]:
    """As `cut`, every group `passes` times over; read once where it is one unit."""
    found: list[Unit] = []
    for low, high in pairwise(plan.groups.tolist()):
        group = replace(plan, groups=np.array([low, high]))
        units = cut(group, most)
        found += [replace(units[0], times=passes)] if len(units) == 1 else units * passes
    return found


class Batches(Generic[Buffers, Batch]):
    """The batches of an epoch, each valid until the next is asked for; leave early by `close` or `with`."""

    def __init__(
        self,
        ahead: ReadAhead[tuple[Unit, Unit | None], Buffers, list[Batch]],
        release: Callable[[], None],
    ) -> None:
        self._ahead, self._release = ahead, release
        self._unit: Iterator[Batch] = iter(())

    @property
    def waited(self) -> float:
        """Seconds that the caller stood waiting for a batch."""
        return self._ahead.waited

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while True:
            for batch in self._unit:
                return batch
            try:
                self._unit = iter(next(self._ahead))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Stop reading; iterating further ends at once."""
        self._ahead.close()
        self._unit = iter(())
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class GroupStream(ABC, Generic[Buffers, Batch]):
    """What streams of tokens share: the order, the units, the buffers, the reading threads.

    `rows` ascending, those of all parts of a `mix`. `buffer_mb` bounds the buffers of all units in flight
    together, in MiB; at least two batches are held. `threads` read. `rank` and `world` share an epoch among
    processes, each with batches of its own; `share` gives a process its part of every batch. `shuffle` as in
    `store.order`. `direct_io`: read pictures past the system's page cache; none: where an epoch takes more
    than the memory that is free, so that nothing would be found in the cache again. Raises `UsageError`.
    """

    def __init__(
        self,
        *,
        rows: IntArray,
        batch_size: int,
        row_bytes: float,
        place_bytes: int,
        chunk: int,
        whole_chunks: bool = False,
        least: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: Shuffle = "blocks",
        share: Share | None = None,
        mix: MixedRows | None = None,
        buffer_mb: float = BUFFER_MB,
        threads: int | None = None,
        direct_io: bool | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world:
            raise UsageError("bad batch size or rank", found=f"batch {batch_size}, rank {rank} of {world}")
        if not 0 < buffer_mb < math.inf:
            raise UsageError(
                "buffers must hold something, and not everything",
                found=f"buffer_mb {buffer_mb}",
                allowed="above 0, a finite number",
            )
        self.rows, self.batch_size, self.seed, self.mix, self.share = rows, batch_size, seed, mix, share
        self.rank, self.world, self.shuffle, self._least = rank, world, shuffle, least
        self.unit_rows = max(1, int(buffer_mb * 2**20 / _SETS / max(1.0, row_bytes)))
        block = block_rows(place_bytes)
        self._chunk = chunk if whole_chunks or chunk < block else 1
        self._block = max(1, block // self._chunk) * self._chunk
        self._group = group_rows(place_bytes)
        self._reader = GroupReader(threads)
        free = free_memory()
        larger = free is not None and len(rows) * row_bytes > _CACHED_SHARE * free
        self.direct_io = larger if direct_io is None else direct_io
        self._spare: list[Buffers] = []

    @property
    def epoch_rows(self) -> int:
        """Rows of a whole epoch on all ranks: all of them, or of a mix as many as its shares allow."""
        return len(self.rows) if self.mix is None else sum(self.mix.counts)

    @property
    def steps(self) -> int:
        """Batches of a whole epoch on this world."""
        return epoch_steps(self.epoch_rows, world=self.world, batch=self.batch_size, least=self._least)

    def plan(self, epoch: int, done: Sequence[Done] = ()) -> EpochPlan:
        """What this rank, or share, reads in an epoch, after the parts of it that are `done`."""
        whole = self.whole_plan(epoch, done)
        return whole if self.share is None else self.share.of(whole)

    def whole_plan(self, epoch: int, done: Sequence[Done] = ()) -> EpochPlan:
        """The same for all shares of this rank together."""
        order = partial(epoch_plan, self.rows) if self.mix is None else self.mix.plan
        return order(
            seed=self.seed,
            epoch=epoch,
            batch=self.batch_size,
            rank=self.rank,
            world=self.world,
            least=self._least,
            block_rows=self._block,
            group_rows=self._group,
            align=self._chunk,
            shuffle=self.shuffle,
            done=done,
        )

    def order(self, epoch: int) -> IntArray:
        """The rows of one epoch on this rank `(n,)`, in order."""
        return self.plan(epoch).rows

    def epoch(
        self, epoch: int, done: Sequence[Done] = (), micro: Micro | None = None, skip: int = 0
    ) -> Batches[Buffers, Batch]:
        """The batches of one epoch, or of what is left of it, each valid until the next is asked for.

        With `micro` the micro-batches of every step in its place, all of them `micro.passes` times over.
        `skip` leaves out so many steps at the beginning, without reading them.
        """
        plan = self.plan(epoch, done).after(skip)
        if micro is None:
            units = cut(plan, self.unit_rows)
        else:
            units = cut_steps(micro.cut(plan), min(self.unit_rows, self._group), micro.passes)
        largest = max((len(u.rows) for u in units), default=1)
        taken = [self._take(largest) for _ in range(min(_SETS, max(1, len(units))))]

        def read(job: tuple[Unit, Unit | None], room: Buffers) -> list[Batch]:
            unit, following = job
            if following is not None:
                self._advise(following, epoch)
            return self._read(unit, room, epoch) * unit.times

        def release() -> None:
            self._spare = (self._spare + taken)[:_SETS]
            taken.clear()

        jobs = zip(units, [*units[1:], None], strict=True) if units else ()
        return Batches(ReadAhead(jobs, read, list(taken)), release)

    def _take(self, rows: int) -> Buffers:
        while self._spare:
            room = self._spare.pop()
            if self._holds(room, rows):
                return room
        return self._room(rows)

    @abstractmethod
    def _room(self, rows: int) -> Buffers:
        """New buffers for so many rows."""

    @abstractmethod
    def _holds(self, room: Buffers, rows: int) -> bool:
        """Whether buffers have room for so many rows."""

    @abstractmethod
    def _advise(self, unit: Unit, epoch: int) -> None:
        """Tell the kernel what will be read next through its page cache, and remote stores."""

    @abstractmethod
    def _read(self, unit: Unit, room: Buffers, epoch: int) -> list[Batch]:
        """Read a unit into buffers; its batches are views."""
