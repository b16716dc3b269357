"""Steps larger than memory: each is read as micro-batches, as many times over as a gradient needs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.order import EpochPlan

if TYPE_CHECKING:
    from embedstore.shapes import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """Micro-batches of `rows` pictures at most, those of a step `passes` times one after the other."""

    rows: int
    passes: int = 2

    def __post_init__(self) -> None:
        if self.rows < 1 or self.passes < 1:
            raise UsageError(
                "bad micro-batches", found=f"{self.rows} rows, {self.passes} passes", allowed="1 or more"
            )

    def counts(self, plan: EpochPlan) -> IntArray:
        """Micro-batches of each step `(s,)`."""
        found: IntArray = -(-np.diff(plan.batches) // self.rows)
        return found

    def cut(self, plan: EpochPlan) -> EpochPlan:
        """The same steps, one a group, with micro-batches for batches; sizes in a step differ by at most one.

        The rows of a step stand in ascending order, in which they are read fastest: the gradient of a step is
        the same in any.
        """
        rows, cuts = plan.rows.copy(), [np.zeros(1, np.int64)]
        for (low, high), count in zip(
            pairwise(plan.batches.tolist()), self.counts(plan).tolist(), strict=True
        ):
            rows[low:high].sort()
            cuts.append(low + (np.arange(1, count + 1, dtype=np.int64) * (high - low)) // count)
        groups = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts(plan))])
        return EpochPlan(rows=rows, batches=np.concatenate(cuts), groups=groups)
