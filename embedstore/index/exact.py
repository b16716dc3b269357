"""Exact ranks and neighbours in bounded memory, the same on every device and for every block size.

Matrix products alone cannot promise that: how a product rounds depends on the library, the thread count and
the place of a row in its block, which is enough to break a tie one way or the other. So a product only
*sorts out* what is certain: by the standard bound, a float32 product of two e-wide vectors is within
`e·u / (1 - e·u) · |q|·|g|` of the true value, u = 2^-24, in whatever order it was summed (Higham, Accuracy
and Stability, section 3.1). Pairs inside that band are decided by `pair_scores`, which depends on the two
vectors only. The order is the one of `metrics.recall`: falling score, then rising row.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.metrics.recall import check_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from embedstore.metrics.recall import Positives
    from embedstore.shapes import FloatArray, IntArray

BLOCK = 4096
_PAIR_VALUES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The k best gallery rows of each query: rows `(q, k)` int64, scores `(q, k)` float64, best first."""

    rows: IntArray
    scores: FloatArray


def pair_scores(queries: FloatArray, gallery: FloatArray, left: IntArray, right: IntArray) -> FloatArray:
    """Inner products of `queries[left]` and `gallery[right]`, `(m,)` float64, row by row.

    Inputs count as float32, whose products are exact in float64; each pair is summed alone and in the same
    way, so that equal vectors have equal scores wherever they stand.
    """
    scores = np.empty(len(left), dtype=np.float64)
    step = max(1, _PAIR_VALUES // max(1, queries.shape[1]))
    for at in range(0, len(left), step):
        part = slice(at, at + step)
        q = queries[left[part]].astype(np.float32).astype(np.float64)
        scores[part] = (q * gallery[right[part]].astype(np.float32)).sum(axis=1)
    return scores


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
    _check(queries, gallery, block)
    if len(positives) != len(queries):
        raise UsageError("one list of positives a query", found=f"{len(queries)} and {len(positives)}")
    check_rows(positives, len(gallery))
    best, row = _best_positives(queries, gallery, positives)
    slack = _slack(queries, gallery, block)
    ahead = np.zeros(len(queries), dtype=np.int64)
    with _full_precision():
        for part in _parts(len(queries), block):
            goal = torch.from_numpy(best[part])
            low = _outward(goal - slack, up=False).to(device)
            high = _outward(goal + slack, up=True).to(device)
            for at, scores in _score_blocks(queries[part], gallery, block, device):
                above, left, right = _sort_out(scores, low, high)
                ahead[part] += above
                left, right = left + part.start, right + at
                exact = pair_scores(queries, gallery, left, right)
                first = (exact > best[left]) | ((exact == best[left]) & (right < row[left]))
                np.add.at(ahead, left[first], 1)
    return ahead + 1


def top_k(
    queries: FloatArray, gallery: FloatArray, k: int, *, block: int = BLOCK, device: str = "cpu"
) -> Neighbours:
    """The k best gallery rows of each query by inner product (all of them where the gallery is smaller).

    Streams over the gallery with a running top k. Inputs, memory and errors as in `ranks_of_positives`.
    """
    _check(queries, gallery, block)
    k = min(k, len(gallery))
    if k < 1:
        raise UsageError("k must be at least 1 and the gallery not empty", found=k)
    slack = _slack(queries, gallery, block)
    found = Neighbours(rows=np.empty((len(queries), k), np.int64), scores=np.empty((len(queries), k)))
    with _full_precision():
        for part in _parts(len(queries), block):
            size = part.stop - part.start
            kept = Neighbours(rows=np.empty((size, 0), np.int64), scores=np.empty((size, 0)))
            for at, scores in _score_blocks(queries[part], gallery, block, device):
                low = _outward(_entry_bar(scores, kept, k, slack) - slack, up=False).to(device)
                left, right = torch.nonzero(scores >= low[:, None]).cpu().numpy().T
                exact = pair_scores(queries[part], gallery, left, right + at)
                kept = _merge(kept, left, right + at, exact, k)
            found.rows[part], found.scores[part] = kept.rows, kept.scores
    return found


def _entry_bar(scores: Tensor, kept: Neighbours, k: int, slack: float) -> Tensor:
    """A score `(q,)` float64 that the k-th best row so far is sure to reach; -inf while there are fewer."""
    bar = torch.full((len(scores),), -torch.inf, dtype=torch.float64)
    if scores.shape[1] >= k:
        bar = torch.topk(scores, k, dim=1).values[:, -1].cpu().double() - slack
    if kept.rows.shape[1] == k:
        bar = torch.maximum(bar, torch.from_numpy(kept.scores[:, -1]))
    return bar


def _merge(kept: Neighbours, left: IntArray, right: IntArray, scores: FloatArray, k: int) -> Neighbours:
    """Best k of what is kept and what is new; every query has the same number of rows before and after."""
    q, width = kept.rows.shape
    line = np.concatenate([np.repeat(np.arange(q), width), left])
    row = np.concatenate([kept.rows.ravel(), right])
    score = np.concatenate([kept.scores.ravel(), scores])
    order = np.lexsort((row, -score, line))
    starts = np.searchsorted(line[order], np.arange(q + 1))
    width = min(k, int(np.diff(starts).min()))
    take = order[starts[:-1, None] + np.arange(width)]
    return Neighbours(rows=row[take], scores=score[take])


def _best_positives(
    queries: FloatArray, gallery: FloatArray, positives: Positives
) -> tuple[FloatArray, IntArray]:
    """Score and row of the positive that stands first for each query."""
    owner = np.repeat(np.arange(len(positives)), positives.counts)
    scores = pair_scores(queries, gallery, owner, positives.rows)
    order = np.lexsort((positives.rows, -scores, owner))
    first = order[positives.offsets[:-1]]
    return scores[first], positives.rows[first]


def _slack(queries: FloatArray, gallery: FloatArray, block: int) -> float:
    """Bound on the error of any float32 score, underflow included."""
    u: float = queries.shape[1] / 2**24
    slack = u / (1 - u) * _longest(queries, block) * _longest(gallery, block) * (1 + 1e-9) + 1e-30
    if slack > 1e30:
        raise UsageError("embeddings are too long for float32 scores", todo="normalise them first")
    return slack


def _parts(n: int, block: int) -> Iterator[slice]:
    return (slice(at, min(at + block, n)) for at in range(0, n, block))


def _score_blocks(
    queries: FloatArray, gallery: FloatArray, block: int, device: str
) -> Iterator[tuple[int, Tensor]]:
    """First gallery row and float32 scores of each block."""
    left = _tensor(queries, device)
    for part in _parts(len(gallery), block):
        yield part.start, left @ _tensor(gallery[part], device).T


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


def _longest(vectors: FloatArray, block: int) -> float:
    """Largest Euclidean length of the rows, 0 where there are none."""
    parts = (vectors[part].astype(np.float64) for part in _parts(len(vectors), block))
    return max((float(np.sqrt((p * p).sum(axis=1)).max()) for p in parts), default=0.0)


def _tensor(values: FloatArray, device: str) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C")).to(device)


def _outward(values: Tensor, *, up: bool) -> Tensor:
    """To float32 without ever narrowing the band."""
    edge = torch.tensor(torch.inf if up else -torch.inf)
    return torch.nextafter(values.float(), edge)


def _check(queries: FloatArray, gallery: FloatArray, block: int) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise UsageError(
            "queries and gallery must be (q, e) and (n, e)", found=(queries.shape, gallery.shape)
        )
    if not 1 <= block < 2**24:
        raise UsageError("a block has at least one row", found=block, allowed="1 to 2^24 - 1")
    for name, values in (("queries", queries), ("gallery", gallery)):
        for part in _parts(len(values), block):
            if not np.isfinite(values[part]).all():
                raise UsageError("embeddings are not finite", where=name, found=f"in rows from {part.start}")


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products in float32: the error bound does not hold for TF32 or bfloat16 passes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
