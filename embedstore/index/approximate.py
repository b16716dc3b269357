"""Approximate search by FAISS: candidates from an index, scores and order exact, recall measured and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from embedstore.errors import UsageError
from embedstore.index.clusters import one_thread, sample_places
from embedstore.index.products import BLOCK, check, pair_scores, parts
from embedstore.index.topk import Neighbours, top_k

if TYPE_CHECKING:
    from embedstore.shapes import Float32Array, FloatArray, IntArray

IndexKind: TypeAlias = Literal["exact", "ivf", "hnsw", "pq"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
GPU_LIMIT = 2048
SAMPLE_QUERIES = 512
_REFINE = 8
_CODES = 256
_LINKS = 32
_TRAIN_A_LIST = 64
_NO_ROW = -1


class Index:
    """The nearest rows of a gallery by inner product: exact, or among the candidates of a FAISS index.

    gallery `(n, e)` float32, unit vectors; it is kept, for the exact scores of candidates. `ivf`: inverted
    lists, about 4·√n, of which 1/16 and at least 8 are looked at. `hnsw`: a graph of 32 links. `pq`: the same
    lists with codes of one byte for about 4 values, 8 candidates for each answer. Building is a function of
    gallery and seed, on one thread. With `device` cuda, ivf and pq lie on the GPU where this FAISS can; there
    it answers up to 2,048 candidates, and above `top_k` answers on the device. `UsageError`.
    """

    def __init__(
        self, gallery: Float32Array, kind: str = "exact", *, seed: int = 0, device: str = "cpu"
    ) -> None:
        if kind not in KINDS:
            raise UsageError("unknown index", where="--index", found=kind, allowed=", ".join(KINDS))
        if not len(gallery):
            raise UsageError("an index needs at least one row", found=0)
        check(gallery[:0], gallery, BLOCK)
        self.kind, self._gallery, self._device, self.on_gpu = kind, gallery, device, False
        self._index = None if kind == "exact" else self._built(seed)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """The best k, by falling score, then rising row; -1 and -inf behind them where fewer were found."""
        k = min(k, len(self._gallery))
        fetch = min(k * (_REFINE if self.kind == "pq" else 1), len(self._gallery))
        if self._index is None or (self.on_gpu and fetch > GPU_LIMIT):
            return top_k(queries, self._gallery, k, device=self._device)
        check(queries, self._gallery[:0], BLOCK)
        found = Neighbours(
            rows=np.full((len(queries), k), _NO_ROW, np.int64), scores=np.full((len(queries), k), -np.inf)
        )
        if self.kind == "hnsw":
            self._index.hnsw.efSearch = max(64, 2 * fetch)
        for part in parts(len(queries), BLOCK):
            asked = np.ascontiguousarray(queries[part], np.float32)
            _, rows = self._index.search(asked, fetch)
            found.rows[part], found.scores[part] = self._ordered(asked, rows, k)
        return found

    def recall(self, queries: FloatArray, k: int, *, seed: int = 0, sample: int = SAMPLE_QUERIES) -> float:
        """Mean of `recalls`; 1 where there are no queries."""
        found = self.recalls(queries, k, seed=seed, sample=sample)
        return float(found.mean()) if len(found) else 1.0

    def recalls(
        self, queries: FloatArray, k: int, *, seed: int = 0, sample: int = SAMPLE_QUERIES
    ) -> FloatArray:
        """Of at most `sample` of the queries each: the share of the exact best k that this index finds.

        A row with the score of the k-th best counts as well as that one.
        """
        asked = np.asarray(queries[sample_places(len(queries), sample, seed)])
        if self._index is None or not len(asked):
            return np.ones(len(asked))
        exact = top_k(asked, self._gallery, k, device=self._device)
        found = self.search(asked, k)
        shares: FloatArray = (found.scores >= exact.scores[:, -1:]).mean(axis=1)
        return shares

    def _ordered(self, queries: Float32Array, rows: IntArray, k: int) -> tuple[IntArray, FloatArray]:
        """Candidates `(b, m)` by their exact scores, the best k of them."""
        left, at = np.nonzero(rows >= 0)
        scores = np.full(rows.shape, -np.inf)
        scores[left, at] = pair_scores(queries, self._gallery, left, rows[left, at])
        last = np.where(rows >= 0, rows, np.iinfo(np.int64).max)
        order = np.lexsort((last, -scores), axis=-1)[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _built(self, seed: int) -> Any:
        import faiss

        count, width = self._gallery.shape
        with one_thread():
            if self.kind == "hnsw":
                index: Any = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = 2 * _LINKS
            else:
                index = self._lists(seed)
            if not index.is_trained:
                places = sample_places(count, max(_CODES, _TRAIN_A_LIST * index.nlist), seed)
                index.train(np.ascontiguousarray(self._gallery[places], np.float32))
            for part in parts(count, BLOCK):
                index.add(np.ascontiguousarray(self._gallery[part], np.float32))
        return self._moved(index)

    def _lists(self, seed: int) -> Any:
        import faiss

        count, width = self._gallery.shape
        lists = max(1, min(round(4 * count**0.5), count // 4))
        coarse = faiss.IndexFlatIP(width)
        index: Any
        if self.kind == "ivf":
            index = faiss.IndexIVFFlat(coarse, width, lists, faiss.METRIC_INNER_PRODUCT)
        else:
            if count < _CODES:
                raise UsageError(
                    "too few rows for product quantisation", found=count, allowed=f"{_CODES} or more"
                )
            pieces = max(p for p in range(1, max(1, width // 4) + 1) if width % p == 0)
            index = faiss.IndexIVFPQ(coarse, width, lists, pieces, 8, faiss.METRIC_INNER_PRODUCT)
            index.pq.cp.seed = seed % 2**31
            index.pq.cp.min_points_per_centroid = 1
        index.cp.seed, index.cp.spherical = seed % 2**31, True
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAIN_A_LIST
        index.nprobe = min(lists, max(8, lists // 16))
        return index

    def _moved(self, index: Any) -> Any:
        import faiss

        if not self._device.startswith("cuda") or self.kind == "hnsw" or not _gpus():
            return index
        self.on_gpu = True
        number = int(self._device.partition(":")[2] or 0)
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)


def _gpus() -> int:
    """GPUs that this FAISS can use."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
