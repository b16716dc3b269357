"""Spherical k-means by FAISS, and the nearest clusters of each vector, the same for every thread count."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.index.products import BLOCK, check, parts
from embedstore.index.topk import TopK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.shapes import Float32Array, FloatArray, IntArray

Int32Array: TypeAlias = npt.NDArray[np.int32]

ITERATIONS = 10
SAMPLE = 64


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread: how its sums round, and the order in which it inserts, depend on the number."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def sample_places(count: int, most: int, seed: int) -> IntArray:
    """At most `most` of `range(count)`, ascending: a pure function of the arguments."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    chosen: IntArray = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    return chosen


def spherical_kmeans(
    vectors: Float32Array, clusters: int, *, seed: int = 0, iterations: int = ITERATIONS
) -> Float32Array:
    """Unit centroids `(clusters, e)` of unit vectors `(n, e)`, learnt from at most 64 vectors a cluster.

    Lloyd's iterations by inner product, centroids brought to length 1 after each (Dhillon and Modha, "Concept
    decompositions for large sparse text data using clustering", 2001). On one thread: seed and vectors alone
    decide every bit. `UsageError` for fewer vectors than clusters and for values that are not finite.
    """
    import faiss

    if not 1 <= clusters <= len(vectors):
        raise UsageError(
            "as many clusters cannot be", found=clusters, allowed=f"1 to {len(vectors)}, the number of rows"
        )
    sample = np.ascontiguousarray(vectors[sample_places(len(vectors), clusters * SAMPLE, seed)], np.float32)
    check(sample[:0], sample, BLOCK)
    learner = faiss.Clustering(sample.shape[1], clusters)
    learner.spherical, learner.niter, learner.seed = True, iterations, seed % 2**31
    learner.min_points_per_centroid, learner.max_points_per_centroid = 1, len(sample)
    with one_thread():
        learner.train(sample, faiss.IndexFlatIP(sample.shape[1]))
    found = faiss.vector_to_array(learner.centroids).reshape(clusters, -1).astype(np.float64)
    lengths = np.sqrt(np.square(found).sum(axis=1, keepdims=True))
    unit: Float32Array = (found / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return unit


def nearest_clusters(
    vectors: FloatArray,
    centroids: Float32Array,
    count: int,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Int32Array:
    """The `count` nearest clusters of each vector `(n, count)` int32, nearest first; ties by number."""
    count = min(count, len(centroids))
    found: Int32Array = np.empty((len(vectors), count), np.int32)
    for part in parts(len(vectors), BLOCK):
        best = TopK(np.asarray(vectors[part]), count, device=device)
        best.add(centroids)
        found[part] = best.result().rows
        if on_progress is not None:
            on_progress(part.stop, len(vectors))
    return found
