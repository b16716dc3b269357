"""Which pairs of rows SemDeDup compares, and how many of all duplicate pairs these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.index.clusters import nearest_clusters, sample_places, spherical_kmeans
from embedstore.index.products import BLOCK, full_precision, pair_scores, parts, slack_between, tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.index.clusters import Int32Array
    from embedstore.shapes import Float32Array, IntArray

SAMPLE_ROWS = 512
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Meetings:
    """The cluster of each row `(n,)` int32, and those whose rows it meets `(n, m)` int32, -1 for none."""

    clusters: Int32Array
    visits: Int32Array
    count: int
    eps: float

    def recall(
        self, vectors: Float32Array, order: IntArray, *, seed: int = 0, device: str = "cpu"
    ) -> tuple[float | None, int]:
        """Share of the duplicate pairs of 512 sampled rows, or all, that are compared, of how many pairs."""
        sampled = sample_places(len(vectors), SAMPLE_ROWS, seed)
        met, total = self.met_pairs(vectors, order, sampled, np.arange(len(vectors)), device=device)
        return (met / total if total else None), total

    def met_pairs(
        self,
        vectors: Float32Array,
        order: IntArray,
        left: IntArray,
        right: IntArray,
        *,
        device: str = "cpu",
    ) -> tuple[int, int]:
        """Of the pairs of a row in `left` and another in `right` above 1 - eps: those compared, and all."""
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        limit, slack = 1.0 - self.eps, slack_between(1.001, 1.001, vectors.shape[1])
        met = total = 0
        with full_precision():
            for some in parts(len(left), BLOCK // 4):
                asked = tensor(np.asarray(vectors[left[some]]), device)
                for part in parts(len(right), BLOCK):
                    scores = asked @ tensor(np.asarray(vectors[right[part]]), device).T
                    near = torch.nonzero(scores >= limit - slack).cpu().numpy()
                    a, b = left[some][near[:, 0]], right[part][near[:, 1]]
                    true = (a != b) & (pair_scores(vectors, vectors, a, b) > limit)
                    a, b = a[true], b[true]
                    swap = rank[a] > rank[b]
                    first, later = np.where(swap, b, a), np.where(swap, a, b)
                    met += int((self.visits[later] == self.clusters[first][:, None]).any(axis=1).sum())
                    total += len(a)
        return met, total


def meet(
    vectors: Float32Array,
    *,
    eps: float,
    clusters: int | None = None,
    probes: int = 1,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Meetings:
    """Clusters of unit vectors `(n, e)`, √n of them unless told, and of each row the `probes` nearest ones.

    Left out of these are clusters in which no duplicate of the row can be: two rows with a cosine above
    1 - eps are nearer than √(2 eps), so where c is the cluster of the one and b that of the other row x,
    x·(b - c) is at most √(2 eps) |b - c|. With as many probes as clusters every duplicate pair is met.
    """
    count = clusters or max(1, round(len(vectors) ** 0.5))
    centroids = spherical_kmeans(vectors, count, seed=seed)
    visits = nearest_clusters(vectors, centroids, probes, device=device, on_progress=on_progress)
    reach = (2 * eps) ** 0.5
    for part in parts(len(vectors), BLOCK):
        own, near = np.asarray(vectors[part]), visits[part].astype(np.int64)
        rows = np.arange(len(own))
        ahead = pair_scores(own, centroids, rows, near[:, 0])
        for column in range(1, near.shape[1]):
            gap = ahead - pair_scores(own, centroids, rows, near[:, column])
            apart = centroids[near[:, 0]] - centroids[near[:, column]]
            distance = np.sqrt(np.square(apart).sum(axis=1, dtype=np.float64))
            visits[part][np.asarray(gap > reach * distance + _ROUNDING), column] = -1
    return Meetings(clusters=visits[:, 0].copy(), visits=visits, count=count, eps=eps)
