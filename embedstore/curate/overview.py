"""The verb `show`: what a subset holds, in figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from embedstore.curate.operands import opened

if TYPE_CHECKING:
    from os import PathLike

    import pyarrow as pa

    from embedstore.store import Store, Subset

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A subset's cards and figures.

    scores: at `QUANTILES`, none without scores; the others: rows of each value. Values fall by their rows,
    equal ones by name.
    """

    subset: Subset
    scores: tuple[float, ...]
    concepts: dict[str, int]
    reasons: dict[str, int]
    parents: dict[str, int]
    dropped_reasons: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value; cards as they are on disk."""
        return {
            "name": self.subset.name,
            "rows": len(self.subset),
            "dropped": self.subset.dropped_count,
            "cards": [card.model_dump(mode="json") for card in self.subset.cards],
            "scores": dict(zip(map(str, QUANTILES), self.scores, strict=True)) if self.scores else {},
            "concepts": self.concepts,
            "reasons": self.reasons,
            "parents": self.parents,
            "dropped_reasons": self.dropped_reasons,
        }


def describe_subset(store: Store | str | PathLike[str], subset: str) -> Overview:
    """The figures of a subset; `StoreError` for an unknown name."""
    chosen = opened(store).subset(subset)
    known = chosen.read(["reason", "concept", "score", "parent"])
    scores = known["score"].drop_null().to_numpy()
    return Overview(
        subset=chosen,
        scores=tuple(map(float, np.quantile(scores, QUANTILES))) if len(scores) else (),
        concepts=counted(known["concept"]),
        reasons=counted(known["reason"]),
        parents=counted(known["parent"]),
        dropped_reasons=counted(chosen.read_dropped(["reason"])["reason"]),
    )


def counted(column: pa.ChunkedArray[Any]) -> dict[str, int]:
    """How often each string stands in a column, most first, equal ones by name; null does not count."""
    lines = pc.value_counts(column.drop_null()).to_pylist()
    return {
        line["values"]: line["counts"] for line in sorted(lines, key=lambda x: (-x["counts"], x["values"]))
    }
