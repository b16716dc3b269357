"""Keep or drop, one row after another: a row goes when it is too near to one that is kept before it.

So no chain carries a row away: of A, B and C with A near B and B near C alone, in this order, B goes and C
stays. The decision is by `index.products.pair_scores`, which knows the two vectors alone; float32 products
only sort out what is certain. Hence neither blocks nor threads make a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.index.products import full_precision, pair_scores, parts, slack_between, tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.index.clusters import Int32Array
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store.selection import Bools

TILE = 2048
BLOCK = 1 << 16
MOST_EDGES = 1 << 22
_LONGEST = 1 + 2**-20


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """For each vector the kept one that stands for it `(n,)` int64, -1 where it is kept, and their cosine."""

    twin: IntArray
    score: FloatArray


def greedy_twins(
    vectors: Float32Array,
    order: IntArray,
    limit: float,
    *,
    clusters: Int32Array | None = None,
    visits: Int32Array | None = None,
    block: int = BLOCK,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Twins:
    """Drop what has a cosine above `limit` to a kept vector that stands before it in `order`.

    vectors `(n, e)` float32 of length 1; order `(n,)` a permutation. The twin is the kept vector before it
    with the highest cosine, of equals the one of lower number. Without `clusters` every pair is compared;
    else row j meets only the kept rows i with `clusters[i]` among `visits[j]` `(n, m)`, -1 for none.
    """
    if clusters is None or visits is None:
        clusters, visits = np.zeros(len(vectors), np.int32), np.zeros((len(vectors), 1), np.int32)
    keeper = _Keeper(vectors, limit, clusters, visits, device)
    with full_precision():
        for part in parts(len(order), block):
            keeper.decide(order[part])
            if on_progress is not None:
                on_progress(part.stop, len(order))
    return Twins(twin=keeper.twin, score=keeper.score)


class _Keeper:
    """What is decided so far."""

    def __init__(
        self, vectors: Float32Array, limit: float, clusters: Int32Array, visits: Int32Array, device: str
    ) -> None:
        self._vectors, self._limit, self._device = vectors, limit, device
        self._clusters, self._visits = clusters, visits
        self._slack = slack_between(_LONGEST, _LONGEST, vectors.shape[1])
        self._kept: dict[int, list[IntArray]] = {}
        self.twin = np.full(len(vectors), -1, np.int64)
        self.score = np.full(len(vectors), -np.inf)

    def decide(self, places: IntArray) -> None:
        """The next rows in the order."""
        visitors = list(_by_cluster(self._visits[places]))
        for cluster, at in visitors:
            for kept in parts_of(self._kept.get(cluster, []), TILE):
                for some in parts(len(at), TILE):
                    self._against_kept(places[at[some]], kept)
        self._decide_within(places, visitors)

    def _decide_within(self, places: IntArray, visitors: list[tuple[int, IntArray]]) -> None:
        undecided = np.flatnonzero(self.twin[places] < 0)
        members = dict(_by_cluster(self._clusters[places[undecided]][:, None]))
        found, total = [], 0
        for cluster, at in visitors:
            if cluster in members:
                for pairs in self._edges(places, undecided[members[cluster]], at):
                    found.append(pairs)
                    total += pairs.shape[1]
                    if total > MOST_EDGES and len(places) > TILE // 2:
                        half = len(places) // 2
                        # What stands against kept rows of before is known; the rest is looked at anew.
                        self._decide_within(places[:half], list(_by_cluster(self._visits[places[:half]])))
                        self.decide(places[half:])
                        return
        edges = np.concatenate(found, axis=1) if found else np.empty((2, 0), np.int64)
        kept = self._keep_greedily(self.twin[places] < 0, edges)
        first, second = edges[:, kept[edges[0]] & ~kept[edges[1]]]
        self._offer(places[second], places[first])
        for cluster, at in _by_cluster(self._clusters[places[kept]][:, None]):
            self._kept.setdefault(cluster, []).append(places[kept][at])

    def _edges(self, places: IntArray, first: IntArray, second: IntArray) -> Iterator[IntArray]:
        """Pairs `(2, m)` of numbers in the block, the first before the second, that are too near."""
        for left in parts(len(first), TILE):
            for right in parts(len(second), TILE):
                ahead, after = first[left], second[right]
                if ahead[0] >= after[-1]:
                    continue
                scores = self._products(places[after], places[ahead])
                if float(scores.max()) < self._limit - self._slack:
                    continue
                near = torch.nonzero(scores >= self._limit - self._slack)
                sure = (scores[near[:, 0], near[:, 1]] > self._limit + self._slack).cpu().numpy()
                rows = near.cpu().numpy()
                pairs = np.stack([ahead[rows[:, 1]], after[rows[:, 0]]])
                before = pairs[0] < pairs[1]
                pairs, sure = pairs[:, before], sure[before]
                close = np.flatnonzero(~sure)
                exact = pair_scores(
                    self._vectors, self._vectors, places[pairs[0, close]], places[pairs[1, close]]
                )
                sure[close] = exact > self._limit
                yield pairs[:, sure]

    @staticmethod
    def _keep_greedily(undecided: Bools, edges: IntArray) -> Bools:
        """Which rows `(b,)` stay: those that are undecided and have no edge from a row that stays."""
        kept = undecided.copy()
        order = np.argsort(edges[1], kind="stable")
        first, second = edges[:, order]
        rows, starts = np.unique(second, return_index=True)
        for row, ahead in zip(rows.tolist(), np.split(first, starts[1:]), strict=False):
            if kept[row] and kept[ahead].any():
                kept[row] = False
        return kept

    def _against_kept(self, rows: IntArray, kept: IntArray) -> None:
        """Of each row the pairs that could be its best one among these kept rows."""
        scores = self._products(rows, kept)
        best = scores.max(dim=1).values
        if float(best.max()) < self._limit - self._slack:
            return
        bar = torch.clamp(best - 2 * self._slack, min=self._limit - self._slack)
        left, right = torch.nonzero(scores >= bar[:, None]).cpu().numpy().T
        self._offer(rows[left], kept[right])

    def _offer(self, rows: IntArray, twins: IntArray) -> None:
        """Kept rows that may stand for `rows`, scored exactly; the best so far is remembered."""
        exact = pair_scores(self._vectors, self._vectors, rows, twins)
        near = exact > self._limit
        rows, twins, exact = rows[near], twins[near], exact[near]
        order = np.lexsort((twins, -exact, rows))
        rows, first = np.unique(rows[order], return_index=True)
        twins, exact = twins[order][first], exact[order][first]
        better = (exact > self.score[rows]) | ((exact == self.score[rows]) & (twins < self.twin[rows]))
        self.twin[rows[better]], self.score[rows[better]] = twins[better], exact[better]

    def _products(self, left: IntArray, right: IntArray) -> Tensor:
        return (
            tensor(np.asarray(self._vectors[left]), self._device)
            @ tensor(np.asarray(self._vectors[right]), self._device).T
        )


def parts_of(pieces: list[IntArray], size: int) -> Iterator[IntArray]:
    """Several arrays as one, in parts of `size`."""
    together = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
    return (together[part] for part in parts(len(together), size))


def _by_cluster(visits: Int32Array) -> Iterator[tuple[int, IntArray]]:
    """Each cluster that is named in `(b, m)`, with the rows that name it, ascending; -1 is none."""
    rows, columns = np.nonzero(visits >= 0)
    named = visits[rows, columns]
    order = np.argsort(named, kind="stable")
    numbers, starts = np.unique(named[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(rows[order], starts[1:]), strict=False)
