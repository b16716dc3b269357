"""Where the right answer stands in a ranked gallery, and what follows from that.

One order holds everywhere in this library: by falling score, and among equal scores by rising row.
So equal scores for everything give the recall of a blind guess (about), never a recall of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedstore.shapes import AnyArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Positives:
    """The right gallery rows of every query, packed.

    rows `(m,)` int64; offsets `(q+1,)` int64: query i owns `rows[offsets[i]:offsets[i+1]]`. Every query has
    at least one; a query without an answer is left out by the caller, who counts it. `UsageError` otherwise.
    """

    rows: IntArray
    offsets: IntArray

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or not self.offsets.size or self.offsets[0] != 0:
            raise UsageError("offsets of positives begin with 0", found=self.offsets[:3])
        if self.offsets[-1] != len(self.rows):
            raise UsageError("offsets do not end at the last row", found=(self.offsets[-1], len(self.rows)))
        empty = np.flatnonzero(np.diff(self.offsets) < 1)
        if empty.size:
            raise UsageError(
                "a query has no right answer",
                found=f"{empty.size} such queries, the first is query {empty[0]}",
                todo="leave them out and count them",
            )

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> Positives:
        """Pack one sequence of rows a query."""
        packed = [np.asarray(rows, dtype=np.int64) for rows in lists]
        offsets = np.cumsum([0, *(len(rows) for rows in packed)], dtype=np.int64)
        return cls(rows=np.concatenate([np.empty(0, np.int64), *packed]), offsets=offsets)

    @classmethod
    def single(cls, rows: IntArray) -> Positives:
        """One right row `(q,)` a query."""
        return cls(rows=np.asarray(rows, dtype=np.int64), offsets=np.arange(len(rows) + 1, dtype=np.int64))

    @property
    def counts(self) -> IntArray:
        """Right rows of each query `(q,)`."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def first_ranks(scores: FloatArray, positives: Positives) -> IntArray:
    """Rank, from 1, of each query's best positive in a whole score matrix `(q, n)`: the plain definition.

    `embedstore.index.exact` gives the same without the matrix.

    The rank is 1 + the rows that stand before it: those of a higher score, and those of an equal score with
    a lower row number. `(q,)` int64. `UsageError` for scores that are not finite or rows outside the gallery.
    """
    if len(scores) != len(positives):
        raise UsageError("one list of positives a query", found=f"{len(scores)} and {len(positives)}")
    if not np.isfinite(scores).all():
        raise UsageError("scores are not finite")
    check_rows(positives, scores.shape[1])
    rows = np.arange(scores.shape[1])
    ranks = np.empty(len(scores), dtype=np.int64)
    for i, line in enumerate(scores):
        right = np.sort(positives.rows[positives.offsets[i] : positives.offsets[i + 1]])
        best = right[np.argmax(line[right])]
        ranks[i] = 1 + np.count_nonzero((line > line[best]) | ((line == line[best]) & (rows < best)))
    return ranks


def check_rows(positives: Positives, n: int) -> None:
    """`UsageError` where a positive is no row of a gallery of `n` rows."""
    if len(positives.rows) and not 0 <= positives.rows.min() <= positives.rows.max() < n:
        raise UsageError(
            "a right answer is outside the gallery",
            found=f"rows {positives.rows.min()} to {positives.rows.max()}",
            allowed=f"0 to {n - 1}",
        )


def hits(ranks: IntArray, k: int) -> FloatArray:
    """1.0 for each query with a positive among its first k, else 0.0; `(q,)` float64. Its mean is recall@k.

    Several positives count once, as in CLIP_benchmark (zeroshot_retrieval): a query is a hit or not.
    """
    return (ranks <= k).astype(np.float64)


def recall_at_k(ranks: IntArray, k: int) -> float:
    """Share of queries with a positive among their first k."""
    return float(hits(ranks, k).mean())


def chance_recall(counts: AnyArray, n: int, k: int) -> float:
    """Expected recall@k of random scores, exactly: mean of `1 - C(n-m, k) / C(n, k)` over the queries.

    counts `(q,)` are m, the positives of each query, in a gallery of n rows.
    """
    sizes, queries = np.unique(np.asarray(counts, dtype=np.int64), return_counts=True)
    # C(n-m, k) / C(n, k) as a product: the chance that each of the m positives misses the first k places
    missed = [np.prod([max(n - k - i, 0) / (n - i) for i in range(int(m))]) for m in sizes]
    return float(1.0 - np.average(missed, weights=queries))


def chance_mean_rank(counts: AnyArray, n: int) -> float:
    """Expected mean rank of random scores: the first of m positives in n rows is at (n + 1) / (m + 1)."""
    return float(np.mean((n + 1) / (np.asarray(counts, dtype=np.float64) + 1)))


def chance_median_rank(counts: AnyArray, n: int) -> float:
    """Smallest rank r that random scores reach within for at least half of the queries, expected."""
    low, high = 1, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chance_recall(counts, n, middle) >= 0.5 else (middle + 1, high)
    return float(low)
