"""Which unit is with whom: the queue that all workers share. Pure state; its owner says what happens."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from embedstore.encode.engines.messages import Lease

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_DEATHS = 3


class UnitOf(NamedTuple):
    """A unit of the pass number `of_pass`."""

    of_pass: int
    unit: int


class UnitQueue:
    """Units on their way through workers `0, 1, …`.

    A worker may have several units in hand, of one pass. When it dies they go back, and each of them is
    then a suspect: it is given out last, so that all others are stored by then, and alone, so that at the
    next death there is no doubt whose fault it was.
    """

    def __init__(self, units: Iterable[UnitOf]) -> None:
        self._pending = deque(units)
        self._suspects: deque[UnitOf] = deque()
        self._in_hand: dict[int, list[UnitOf]] = {}
        self._deaths: Counter[UnitOf] = Counter()

    def join(self, worker: int) -> None:
        """A worker that has nothing in hand is there."""
        self._in_hand[worker] = []

    @property
    def finished(self) -> bool:
        """Whether every unit is stored."""
        return not (self._pending or self._suspects or any(self._in_hand.values()))

    def take(self, worker: int) -> Lease | None:
        """A unit for a worker that has none; none where all are in other hands."""
        if self._pending:
            return self._give(worker, self._pending.popleft())
        return self._give(worker, self._suspects.popleft(), alone=True) if self._suspects else None

    def more(self, worker: int, of_pass: int) -> Lease | None:
        """Another unit of the same pass, unless there are just enough left for those who have none."""
        empty_handed = sum(not units for units in self._in_hand.values())
        if len(self._pending) + len(self._suspects) <= empty_handed or not self._pending:
            return None
        return self._give(worker, self._pending.popleft()) if self._pending[0].of_pass == of_pass else None

    def _give(self, worker: int, unit: UnitOf, *, alone: bool = False) -> Lease:
        self._in_hand[worker].append(unit)
        return Lease(of_pass=unit.of_pass, unit=unit.unit, alone=alone)

    def stored(self, worker: int, unit: UnitOf) -> bool:
        """Take a unit off a worker's hands; False for one that it had not."""
        mine = self._in_hand.get(worker, [])
        if unit not in mine:
            return False
        mine.remove(unit)
        return True

    def died(self, worker: int) -> list[UnitOf]:
        """The units that a dead worker had in hand, which wait for others again."""
        lost = self._in_hand.pop(worker, [])
        self._deaths.update(lost)
        self._suspects.extend(lost)
        return lost

    @property
    def deadly(self) -> UnitOf | None:
        """A unit that was in hand at three deaths: at the first maybe with others, then alone."""
        return next((unit for unit, deaths in self._deaths.items() if deaths >= MOST_DEATHS), None)
