"""Exact ranks and neighbours in bounded memory, the same on every device and for every block size.

Matrix products alone cannot promise that: how a product rounds depends on the library, the thread count and
the place of a row in its block, which is enough to break a tie one way or the other. So a product only
*sorts out* what is certain: by the standard bound, a float32 product of two e-wide vectors is within
`e·u / (1 - e·u) · |q|·|g|` of the true value, u = 2^-24, in whatever order it was summed (Higham, Accuracy
and Stability, section 3.1). Pairs inside that band are decided by `pair_scores`, which depends on the two
vectors only. The order is the one of `metrics.recall`: falling score, then rising row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.products import (
    BLOCK,
    check,
    full_precision,
    in_shares,
    outward,
    pair_scores,
    score_tiles,
    slack_of,
)
from embedstore.index.topk import Neighbours, TopK, top_k
from embedstore.metrics.recall import Positives, check_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from embedstore.shapes import FloatArray, IntArray

__all__ = ["BLOCK", "Neighbours", "TopK", "pair_scores", "ranks_both_ways", "ranks_of_positives", "top_k"]


def ranks_of_positives(
    queries: FloatArray,
    gallery: FloatArray,
    positives: Positives,
    *,
    block: int = BLOCK,
    device: str = "cpu",
) -> IntArray:
    """Rank, from 1, of each query's best positive among all gallery rows; `(q,)` int64.

    queries `(q, e)`, gallery `(n, e)`: floating, read as float32, scored by inner product. Memory beside the
    inputs: at most some `block²` scores. `UsageError` for values that are not finite or shapes that do not
    meet.
    """
    check(queries, gallery, block)
    if len(positives) != len(queries):
        raise UsageError("one list of positives a query", found=f"{len(queries)} and {len(positives)}")
    check_rows(positives, len(gallery))
    owner = np.repeat(np.arange(len(positives)), positives.counts)
    own = pair_scores(queries, gallery, owner, positives.rows)
    goals = _Goals.of(owner, positives.rows, own, slack_of(queries, gallery, block), device)

    def work(part: slice) -> None:
        for to, scores, flags in score_tiles(queries[part], gallery, block, device):
            left, right = goals.count(scores, part.start, to, flags)
            goals.settle(left, right, pair_scores(queries, gallery, left, right))

    with full_precision():
        in_shares(len(queries), block, device, work)
    return goals.ahead + 1


def ranks_both_ways(
    images: FloatArray,
    texts: FloatArray,
    image_of: IntArray,
    *,
    block: int = BLOCK,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[IntArray, IntArray]:
    """Rank of each text's own image among all images `(m,)`, and of each image's best own text `(n,)`, int64.

    The same as `ranks_of_positives` both ways, of one product for both. images `(n, e)`, texts `(m, e)`,
    image_of `(m,)` rows of images; every image has a text at least. `on_progress(images done, images)`.
    `UsageError`.
    """
    check(images, texts, block)
    if np.shape(image_of) != (len(texts),):
        raise UsageError("one image a text", found=f"{np.shape(image_of)} for {len(texts)}")
    check_rows(Positives.single(image_of), len(images))
    bare = np.flatnonzero(np.bincount(image_of, minlength=len(images)) == 0)
    if bare.size:
        raise UsageError(
            "an image has no text",
            found=f"{bare.size} such images, the first is row {bare[0]}",
            todo="leave them out and count them",
        )
    rows, slack = np.arange(len(texts)), slack_of(images, texts, block)
    own = pair_scores(images, texts, image_of, rows)
    down = _Goals.of(image_of, rows, own, slack, device)
    across = _Goals.of(rows, image_of, own, slack, device)

    def work(part: slice) -> None:
        for to, scores, flags in score_tiles(images[part], texts, block, device):
            left, right = down.count(scores, part.start, to, flags)
            down.settle(left, right, pair_scores(images, texts, left, right))
            right, left = across.count(scores.T, to, part.start, (flags[0].T, flags[1].T))
            across.settle(right, left, pair_scores(images, texts, left, right))

    with full_precision():
        in_shares(len(images), block, device, work, on_progress)
    return across.ahead + 1, down.ahead + 1


@dataclass(slots=True, kw_only=True)
class _Goals:
    """Of each query the score and the row of its first positive, and how many rows are known to be ahead.

    low and high: float32 on the device, what no product of an equal score is outside of. Threads may count at
    the same time.
    """

    best: FloatArray
    row: IntArray
    low: Tensor
    high: Tensor
    ahead: IntArray = field(init=False)
    lock: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        self.ahead = np.zeros(len(self.best), dtype=np.int64)

    @classmethod
    def of(cls, query: IntArray, row: IntArray, score: FloatArray, slack: float, device: str) -> _Goals:
        """Of all positive pairs `(p,)` with their scores; every query is in at least one."""
        order = np.lexsort((row, -score, query))
        first = order[np.flatnonzero(np.diff(query[order], prepend=-1))]
        best = score[first]
        goal = torch.from_numpy(best)
        return cls(
            best=best,
            row=row[first],
            low=outward(goal - slack, up=False).to(device),
            high=outward(goal + slack, up=True).to(device),
        )

    def count(
        self, scores: Tensor, at: int, to: int, flags: tuple[Tensor, Tensor]
    ) -> tuple[IntArray, IntArray]:
        """Count what is surely ahead in `scores (q, n)` of queries from `at` with rows from `to`.

        Gives the queries and rows that a product cannot tell, without the positives themselves. Counting by a
        product with ones is several times faster than summing booleans, and exact below 2^24.
        """
        part = slice(at, at + len(scores))
        ones, (more, least) = scores.new_ones(scores.shape[1]), flags
        above = torch.gt(scores, self.high[part, None], out=more) @ ones
        reached = torch.ge(scores, self.low[part, None], out=least) @ ones
        more_ahead = above.long().cpu().numpy()
        with self.lock:
            self.ahead[part] += more_ahead
        # A positive is always reached, and never above.
        own = (self.row[part] >= to) & (self.row[part] < to + scores.shape[1])
        some = np.flatnonzero((reached - above).cpu().numpy() > own)
        if 4 * len(some) < len(scores):
            chosen = torch.from_numpy(some).to(scores.device)
            more, least = more[chosen], least[chosen]
        else:
            some = np.arange(len(scores))
        places = torch.nonzero(least.sub_(more).bool()).cpu().numpy()
        queries, rows = some[places[:, 0]] + at, places[:, 1] + to
        others = rows != self.row[queries]
        return queries[others], rows[others]

    def settle(self, queries: IntArray, rows: IntArray, exact: FloatArray) -> None:
        """Count those of these pairs that are ahead by their exact scores."""
        best = self.best[queries]
        first = (exact > best) | ((exact == best) & (rows < self.row[queries]))
        with self.lock:
            np.add.at(self.ahead, queries[first], 1)
