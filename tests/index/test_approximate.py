"""Approximate indexes: exact scores and order of what they find, and a recall that is true."""

import faiss
import numpy as np
import pytest

from embedstore.errors import UsageError
from embedstore.index import approximate
from embedstore.index.approximate import Index
from embedstore.index.clusters import nearest_clusters, one_thread, sample_places, spherical_kmeans
from embedstore.index.topk import top_k


def clustered(rows, *, width=24, centres=30, seed=0):
    random = np.random.default_rng(seed)
    found = random.normal(size=(centres, width))[random.integers(centres, size=rows)]
    found = found + 0.5 * random.normal(size=found.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("kind", "least"), [("exact", 1.0), ("ivf", 0.8), ("hnsw", 0.9), ("pq", 0.6)])
def test_what_is_found_is_scored_and_ordered_exactly(kind, least):
    gallery, queries = clustered(3000), clustered(200, seed=1)
    gallery[5] = gallery[6]
    index = Index(gallery, kind, seed=3)
    found, exact = index.search(queries, 10), top_k(queries, gallery, 10)
    recall = index.recall(queries, 10)
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found.rows, exact.rows, strict=True)]
    assert recall == pytest.approx(np.mean(hits) / 10, abs=0.01)
    assert least <= recall <= 1.0
    same = found.rows == exact.rows
    assert (found.scores[same] == exact.scores[same]).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    again = Index(gallery, kind, seed=3).search(queries, 10)
    assert (again.rows == found.rows).all()


def test_an_index_does_not_depend_on_threads():
    gallery, queries = clustered(1500), clustered(50, seed=1)
    before = faiss.omp_get_max_threads()
    try:
        for kind in ("ivf", "hnsw", "pq"):
            found = []
            for threads in (1, 3):
                faiss.omp_set_num_threads(threads)
                found.append(Index(gallery, kind).search(queries, 5).rows.tolist())
                assert faiss.omp_get_max_threads() == threads
            assert found[0] == found[1]
    finally:
        faiss.omp_set_num_threads(before)


def test_fewer_rows_than_asked():
    gallery = clustered(5)
    for kind in ("exact", "ivf", "hnsw"):
        found = Index(gallery, kind).search(gallery, 9)
        assert found.rows.shape == (5, 5)
        assert (found.rows[:, 0] == np.arange(5)).all()


def test_recall_of_no_queries_is_whole():
    gallery = clustered(300)
    assert Index(gallery, "ivf").recall(gallery[:0], 1) == 1.0


def test_more_than_a_gpu_index_answers_goes_to_the_exact_search(monkeypatch):
    """The rule alone: `on_gpu` is set by hand, since no GPU is needed to see who answers."""
    gallery, queries = clustered(600), clustered(4, seed=1)
    index = Index(gallery, "ivf")
    index._index.nprobe = 1
    monkeypatch.setattr(approximate, "GPU_LIMIT", 100)
    index.on_gpu = True
    assert (index.search(queries, 101).rows == top_k(queries, gallery, 101).rows).all()
    assert (index.search(queries, 100).rows == -1).any()


def test_a_cpu_index_stays_on_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(approximate, "_gpus", lambda: 0)
    index = Index.__new__(Index)
    index.kind, index._device, index.on_gpu = "ivf", "cuda", False
    assert index._moved("the index") == "the index"
    assert not index.on_gpu


def test_what_cannot_be_an_index_is_refused():
    gallery = clustered(100)
    with pytest.raises(UsageError, match="exact, ivf, hnsw, pq"):
        Index(gallery, "lsh")
    with pytest.raises(UsageError, match="256 or more"):
        Index(gallery, "pq")
    with pytest.raises(UsageError, match="at least one row"):
        Index(gallery[:0], "ivf")
    gallery[3, 0] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        Index(gallery, "ivf")


def test_kmeans_is_a_function_of_vectors_and_seed():
    vectors, before = clustered(2000), faiss.omp_get_max_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            found.append(spherical_kmeans(vectors, 20, seed=5))
    finally:
        faiss.omp_set_num_threads(before)
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    assert (spherical_kmeans(vectors, 20, seed=6) != found[0]).any()
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-6)
    own = nearest_clusters(vectors, found[0], 1)[:, 0]
    random = np.random.default_rng(0).integers(20, size=len(vectors))
    cosine = np.einsum("ij,ij->i", vectors, found[0][own]).mean()
    assert cosine > np.einsum("ij,ij->i", vectors, found[0][random]).mean() + 0.5


def test_nearest_clusters_are_those_of_the_products():
    vectors, centroids = clustered(300), clustered(12, seed=2)
    found = nearest_clusters(vectors, centroids, 4)
    order = np.argsort(-(vectors.astype(float) @ centroids.T.astype(float)), axis=1)[:, :4]
    assert (found == order).all()
    assert nearest_clusters(vectors, centroids, 99).shape == (300, 12)


def test_clusters_that_cannot_be():
    vectors = clustered(10)
    for clusters in (0, 11):
        with pytest.raises(UsageError, match="1 to 10"):
            spherical_kmeans(vectors, clusters)
    with pytest.raises(UsageError, match="not finite"):
        spherical_kmeans(np.full((10, 3), np.nan, np.float32), 2)


def test_samples_and_threads():
    assert sample_places(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    some = sample_places(1000, 50, 7)
    assert len(some) == 50
    assert (np.diff(some) > 0).all()
    assert (sample_places(1000, 50, 7) == some).all()
    before = faiss.omp_get_max_threads()
    with one_thread():
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before
