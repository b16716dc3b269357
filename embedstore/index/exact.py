"""Exact ranks and neighbours in bounded memory, the same on every device and for every block size.

Matrix products alone cannot promise that: how a product rounds depends on the library, the thread count and
the place of a row in its block, which is enough to break a tie one way or the other. So a product only
*sorts out* what is certain: by the standard bound, a float32 product of two e-wide vectors is within
`e·u / (1 - e·u) · |q|·|g|` of the true value, u = 2^-24, in whatever order it was summed (Higham, Accuracy
and Stability, section 3.1). Pairs inside that band are decided by `pair_scores`, which depends on the two
vectors only. The order is the one of `metrics.recall`: falling score, then rising row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.products import (
    BLOCK,
    check,
    full_precision,
    outward,
    pair_scores,
    parts,
    score_blocks,
    slack_of,
)
from embedstore.index.topk import Neighbours, TopK, top_k
from embedstore.metrics.recall import check_rows

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.metrics.recall import Positives
    from embedstore.shapes import FloatArray, IntArray

__all__ = ["BLOCK", "Neighbours", "TopK", "pair_scores", "ranks_of_positives", "top_k"]


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
    inputs: some `block²` scores. `UsageError` for values that are not finite or shapes that do not meet.
    """
    check(queries, gallery, block)
    if len(positives) != len(queries):
        raise UsageError("one list of positives a query", found=f"{len(queries)} and {len(positives)}")
    check_rows(positives, len(gallery))
    best, row = _best_positives(queries, gallery, positives)
    slack = slack_of(queries, gallery, block)
    ahead = np.zeros(len(queries), dtype=np.int64)
    with full_precision():
        for part in parts(len(queries), block):
            goal = torch.from_numpy(best[part])
            low = outward(goal - slack, up=False).to(device)
            high = outward(goal + slack, up=True).to(device)
            for at, scores in score_blocks(queries[part], gallery, block, device):
                above, left, right = _sort_out(scores, low, high)
                ahead[part] += above
                left, right = left + part.start, right + at
                exact = pair_scores(queries, gallery, left, right)
                first = (exact > best[left]) | ((exact == best[left]) & (right < row[left]))
                np.add.at(ahead, left[first], 1)
    return ahead + 1


def _best_positives(
    queries: FloatArray, gallery: FloatArray, positives: Positives
) -> tuple[FloatArray, IntArray]:
    """Score and row of the positive that stands first for each query."""
    owner = np.repeat(np.arange(len(positives)), positives.counts)
    scores = pair_scores(queries, gallery, owner, positives.rows)
    order = np.lexsort((positives.rows, -scores, owner))
    first = order[positives.offsets[:-1]]
    return scores[first], positives.rows[first]


def _sort_out(scores: Tensor, low: Tensor, high: Tensor) -> tuple[IntArray, IntArray, IntArray]:
    """How many scores `(q, n)` of each query are surely above, and the places of those in [low, high].

    Counting by a product with ones is several times faster than summing booleans, and exact below 2^24.
    """
    ones, flags = scores.new_ones(scores.shape[1]), torch.empty_like(scores)
    above = torch.gt(scores, high[:, None], out=flags) @ ones
    reached = torch.ge(scores, low[:, None], out=flags) @ ones
    some = torch.nonzero(reached > above)[:, 0]
    part = scores[some]
    near = torch.nonzero((part >= low[some, None]) & (part <= high[some, None]))
    left, right = some[near[:, 0]].cpu().numpy(), near[:, 1].cpu().numpy()
    return above.long().cpu().numpy(), left, right
