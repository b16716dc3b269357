"""The part of every batch that one of several processes takes, which train on the same batches together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.order import EpochPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from embedstore.shapes import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Process `rank` of `world`, which takes a part of each batch of one common plan.

    Parts of a batch differ by at most one row; together they are the batch. The lower rows of a batch are the
    lower ranks', so that a process meets mostly the same stretch of a feature in every epoch. `UsageError`
    for a bad rank.
    """

    rank: int
    world: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError("bad rank", found=f"{self.rank} of {self.world}", allowed="0 to world - 1")

    def of(self, plan: EpochPlan) -> EpochPlan:
        """As many batches, of this process's rows; `UsageError` where one has fewer rows than `world`."""
        fewest = int(np.diff(plan.batches).min(initial=self.world))
        if fewest < self.world:
            raise UsageError(
                "a step needs a picture for every process",
                found=f"{fewest} pictures, {self.world} processes",
                todo="take a larger batch_size or fewer processes",
            )
        mine, cuts = [], [0]
        for low, high in pairwise(plan.batches.tolist()):
            part = np.sort(plan.rows[low:high])
            mine.append(part[len(part) * self.rank // self.world : len(part) * (self.rank + 1) // self.world])
            cuts.append(cuts[-1] + len(mine[-1]))
        rows = np.concatenate(mine) if mine else plan.rows
        return EpochPlan(rows=rows, batches=np.array(cuts, np.int64), groups=plan.groups)


def rows_of(plans: Iterable[EpochPlan]) -> IntArray:
    """Every row that some plan brings, ascending."""
    found = np.empty(0, np.int64)
    for plan in plans:
        found = np.union1d(found, plan.rows)
    return found
